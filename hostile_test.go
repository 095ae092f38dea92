package crdt

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	merkledag "github.com/ipfs/go-merkledag"
	"google.golang.org/protobuf/proto"
)

var (
	liarScale    = flag.Int("liar.scale", 1, "how many times as long the attacks of TestHostilePeer last")
	hostileClock = flag.Bool("hostile.clock", false, "whether TestHostilePeer fails when things take long; the machine should have nothing else to do")
)

// What must hold while a peer lies.
const (
	// honestDelay is how long an honest update may take to the other replica,
	// from the call of Put to the hook there.
	honestDelay = time.Second

	// hostileGoroutines is how many goroutines a replica may have: its
	// requests, with a slot (NumWorkers times fetchesPerWorker) or without
	// (maxSlow), and some that are there always.
	hostileGoroutines = 5*fetchesPerWorker + maxSlow + 64

	// hostileHeap is what a replica may take beside what is in its store, in its
	// DAG service and on its way in the network, as doc.go says.
	hostileHeap = 400 << 20
)

// stepPause is between two steps of an attack, for the writers' updates to fall
// in the midst of it.
const stepPause = 5 * time.Millisecond

// Two honest replicas write while a third peer does its worst. They go on as if
// it were not there.
func TestHostilePeer(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if *hostileClock {
				fightInTime(t, a)
				return
			}
			newBattle(t, 0).fight(a)
		})
	}
}

// rowTime is what a row of a commit takes in fake time, where else nothing does.
const rowTime = 4 * time.Microsecond

// In fake time, so that no delay is the machine's.
func TestHostilePeerDelaysNobody(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			a.steps = (a.steps + 1) / 2 // here all is merged in the end, which takes long
			synctest.Test(t, func(t *testing.T) {
				if worst := newBattle(t, rowTime).fight(a); worst > honestDelay {
					t.Errorf("an honest update took %s", worst)
				}
			})
		})
	}
}

// battles is how often an attack is made that delays an honest update. A busy
// machine does so now and then, a fault of ours every time.
const battles = 3

func fightInTime(t *testing.T, a attack) {
	t.Helper()
	for range battles {
		worst := newBattle(t, 0).fight(a)
		if worst <= honestDelay || t.Failed() {
			return
		}
		if alone := costliestBlock(t); worst <= atOnce*alone {
			t.Logf("it takes %s to merge the costliest block alone: the machine is busy", alone.Round(time.Millisecond))
			return
		}
	}
	t.Errorf("in each of %d battles an honest update took more than %s", battles, honestDelay)
}

// An honest update waits for the costliest block that is being merged, and one
// more where it was written, on two replicas that share the machine. So much is
// allowed where the machine is too slow or too busy for honestDelay.
const atOnce = 4

// costliestBlock is how long it takes now to merge the block that takes longest,
// in a replica that has nothing else to do.
func costliestBlock(t *testing.T) time.Duration {
	net := newTestNet()
	r := net.newReplicaOn(t, newPrefixStore(), silent)
	l := newLiar(t, net, r.node)
	begun := time.Now()
	r.awaitMerged(l.offer(l.plain(), l.missing(largest/linkSize)...))
	return time.Since(begun)
}

// A battle is an attack on two replicas that write.
type battle struct {
	t        *testing.T
	net      *testNet
	liar     *liar
	replicas []*replica
	stores   []*prefixStore
	clocked  bool // it must not take long

	mu      sync.Mutex
	put     map[string]time.Time // honest updates under way, by key
	worst   time.Duration        // of those that came
	updates int
}

func newBattle(t *testing.T, rowTime time.Duration) *battle {
	b := &battle{t: t, net: newTestNet(), put: make(map[string]time.Time), clocked: rowTime > 0 || *hostileClock}
	var nodes []*testNode
	for i := range 2 {
		store := newPrefixStore()
		plantNeighbours(t, store)
		store.rowTime = rowTime
		r := b.net.newReplicaOn(t, store, silent, func(o *Options) {
			o.PutHook = func(k ds.Key, _ []byte) { b.came(k.String(), i) }
		})
		b.stores, b.replicas, nodes = append(b.stores, store), append(b.replicas, r), append(nodes, r.node)
	}
	b.liar = newLiar(t, b.net, nodes...)
	return b
}

// honestKey names an update by its writer, so that the other one is known.
func honestKey(writer, n int) string { return fmt.Sprintf("/honest/%d/%d", writer, n) }

// came notes that an update is visible at a replica.
func (b *battle) came(key string, at int) {
	if !strings.HasPrefix(key, "/honest/") || strings.HasPrefix(key, honestKey(at, 0)[:10]) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if since, ok := b.put[key]; ok {
		b.worst = max(b.worst, time.Since(since))
		delete(b.put, key)
		b.updates++
	}
}

// write puts a key every few milliseconds until the context ends.
func (b *battle) write(ctx context.Context, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := honestKey(writer, n)
		b.mu.Lock()
		b.put[key] = time.Now()
		b.mu.Unlock()
		if err := b.replicas[writer].Put(context.Background(), ds.NewKey(key), []byte("v")); err != nil {
			b.t.Errorf("Put: %s", err)
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// fight returns how long the slowest honest update took.
func (b *battle) fight(a attack) time.Duration {
	usage := newUsage(b)
	begun := time.Now()
	ctx, stop := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for i := range b.replicas {
		writers.Go(func() { b.write(ctx, i) })
	}
	rng := rand.New(rand.NewPCG(1, 11))
	for range a.steps * *liarScale {
		a.step(b.liar, rng)
		time.Sleep(stepPause)
	}
	waitFor(b.t, "the messages to be taken", b.allHeard)
	time.Sleep(200 * time.Millisecond) // what they lead to comes later
	stop()
	writers.Wait()
	waitFor(b.t, "the honest updates", func() bool { return b.underWay() == 0 })
	b.t.Logf("%.1fs, %d lies taken: %d updates, the slowest took %s; %s", time.Since(begun).Seconds(), b.taken(), b.updates, b.worst.Round(time.Millisecond), usage.stop())
	usage.check()
	b.converge()
	b.close()
	return b.worst
}

func (b *battle) allHeard() bool {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	for _, r := range b.replicas {
		if len(r.node.inbox) > 4 {
			return false
		}
	}
	return true
}

func (b *battle) underWay() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.put)
}

// taken is how many of the liar's blocks the replicas have asked for.
func (b *battle) taken() int {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	return b.liar.node.served
}

// converge waits until the replicas have the same heads. What they have of the
// liar's unfinished history may differ.
func (b *battle) converge() {
	b.t.Helper()
	x, y := b.replicas[0], b.replicas[1]
	waitFor(b.t, "the replicas to have the same heads", func() bool {
		first, _ := x.frontier.tips()
		second, _ := y.frontier.tips()
		return maps.Equal(first, second)
	})
	if !maps.Equal(honest(x.pairs()), honest(y.pairs())) {
		b.t.Error("the replicas hold different honest pairs")
	}
}

func honest(pairs map[string]string) map[string]string {
	maps.DeleteFunc(pairs, func(k, _ string) bool { return !strings.HasPrefix(k, "/honest/") })
	return pairs
}

// close closes the replicas in time, and looks beside their namespaces. Their
// stores are checked at the end of the test.
func (b *battle) close() {
	b.t.Helper()
	for i, r := range b.replicas {
		begun := time.Now()
		if err := r.Close(); err != nil {
			b.t.Errorf("closing: %s", err)
		}
		if took := time.Since(begun); b.clocked && took > closeTimeout/2 {
			b.t.Errorf("closing took %s", took)
		}
		checkNeighbours(b.t, b.stores[i])
		checkMergedBlocks(b.t, r)
		for name := range dump(b.t, b.stores[i]) {
			if path.Clean(name) != name {
				b.t.Errorf("row %.100q is not where its name says", name)
			}
		}
	}
}

// checkMergedBlocks checks that no block was merged that breaks a rule. It reads
// them without the code that judges them.
func checkMergedBlocks(t *testing.T, r *replica) {
	t.Helper()
	for id, m := range newStoreCheck(t, r).marks {
		raw := r.node.blocks[id.Cid()]
		if !m.state.merged() || len(raw) > 1<<20 {
			continue // reading the largest takes long
		}
		node, err := merkledag.DecodeProtobuf(raw)
		var d pb.Delta
		if err == nil {
			err = proto.Unmarshal(node.Data(), &d)
		}
		if err != nil || sha256.Sum256(raw) != id {
			t.Errorf("block %s was merged and is none: %v", id.Cid(), err)
			continue
		}
		checkDAG(t, d.GetDagName())
	}
}

// A usage watches what the replicas of a battle take.
type usage struct {
	b          *battle
	baseHeap   int
	baseRoutes int
	heap       int // most, beside what is held
	live       int // most of what survived a collection
	goroutines int // most
	end, ended chan struct{}
}

func newUsage(b *battle) *usage {
	runtime.GC()
	u := &usage{b: b, end: make(chan struct{}), ended: make(chan struct{})}
	u.baseHeap, _ = heapBytes()
	u.baseHeap -= b.held()
	u.baseRoutes = runtime.NumGoroutine()
	go u.run()
	return u
}

// heapBytes returns the size of the heap, and of what the last collection left
// of it.
func heapBytes() (all, live int) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64()), int(s[1].Value.Uint64())
}

// held is what is not the replicas' own: their disks and the network.
func (b *battle) held() (n int) {
	for _, s := range b.stores {
		n += s.held()
	}
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	for _, node := range b.net.nodes {
		n += node.size
	}
	return n
}

func (u *usage) run() {
	defer close(u.ended)
	for {
		all, live := heapBytes()
		held := u.b.held()
		u.heap = max(u.heap, all-u.baseHeap-held)
		u.live = max(u.live, live-u.baseHeap-held)
		u.goroutines = max(u.goroutines, runtime.NumGoroutine()-u.baseRoutes)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-u.end:
			return
		}
	}
}

func (u *usage) stop() string {
	close(u.end)
	<-u.ended
	return fmt.Sprintf("%d MiB of heap, %d of them in use; %d goroutines", u.heap>>20, u.live>>20, u.goroutines)
}

func (u *usage) check() {
	u.b.t.Helper()
	if limit := len(u.b.replicas) * hostileHeap; u.heap > limit {
		u.b.t.Errorf("the heap grew by %d MiB, the limit is %d", u.heap>>20, limit>>20)
	}
	if limit := len(u.b.replicas) * hostileGoroutines; u.goroutines > limit {
		u.b.t.Errorf("%d goroutines, the limit is %d", u.goroutines, limit)
	}
}

// Requests for blocks that never come pile up to a limit, however long they are
// asked for.
func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 0 })
		before := runtime.NumGoroutine()
		l := newLiar(t, net, r.node)
		const links = 100
		l.offer(&pb.Delta{Priority: 2, Elements: l.unlike()}, l.missing(links)...)
		for range 4 {
			missingHeads(l, nil)
			time.Sleep(10 * time.Second) // of fake time
		}
		synctest.Wait()
		n := runtime.NumGoroutine() - before
		if n > hostileGoroutines || n < maxSlow {
			t.Errorf("%d goroutines, the limit is %d", n, hostileGoroutines)
		}
		if n := r.fetcher.len(); n > maxAnnounced+links {
			t.Errorf("%d blocks are asked for, the limit is %d", n, maxAnnounced)
		}
	})
}

// A peer that serves its blocks slowly must not teach the others patience with
// blocks that never come.
func TestSlowBlocksDelayNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent)
		l := newLiar(t, net, r.node)
		honest := net.node()
		var slow []cid.Cid
		for range 100 {
			c := l.block(l.plain())
			raw := l.node.blocks[c]
			delete(l.node.blocks, c)
			time.AfterFunc(1500*time.Millisecond, func() { _ = l.node.addRaw(c, raw) })
			slow = append(slow, c)
		}
		l.say(announcement(slow...))
		for _, c := range slow {
			r.awaitMerged(c)
		}
		l.say(announcement(l.missing(400)...))
		synctest.Wait()
		begun := time.Now()
		r.awaitMerged(r.offer(honest, &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
		if took := time.Since(begun); took > honestDelay {
			t.Errorf("an honest block took %s", took)
		}
	})
}
