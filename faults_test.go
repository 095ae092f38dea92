package crdt

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// offer forges a block at a liar's and announces it to r.
func (r *replica) offer(liar *testNode, d *pb.Delta, links ...cid.Cid) cid.Cid {
	r.t.Helper()
	c := liar.forge(r.t, marshalDelta(r.t, d), links...)
	r.node.deliver(announcement(c))
	return c
}

// state says what a replica knows of a block.
func (r *replica) state(c cid.Cid) markState {
	r.t.Helper()
	id, err := blockIDOf(c)
	r.must(err)
	b, found, err := r.Datastore.store.get(ctx, r.Datastore.store.keys.block(id))
	r.must(err)
	if !found {
		return unknown
	}
	m, err := decodeMark(b)
	r.must(err)
	return m.state
}

func (r *replica) awaitMerged(c cid.Cid) {
	r.t.Helper()
	waitFor(r.t, "a block to be merged", func() bool { return r.state(c).merged() })
}

// head returns the CID of the only head.
func (r *replica) head() cid.Cid {
	r.t.Helper()
	heads, _, err := r.Heads().List(ctx)
	r.must(err)
	if len(heads) != 1 {
		r.t.Fatalf("%d heads, want 1", len(heads))
	}
	return heads[0].Cid
}

// reopenWith restarts a replica with another DAG service or other internals.
func (r *replica) reopenWith(dagSyncer ipld.DAGService, internal *MerkleCRDTOptions) {
	r.t.Helper()
	r.must(r.Close())
	m, err := NewMerkleCRDT(r.store, testNamespace, dagSyncer, r.node, r.opts, internal)
	r.must(err)
	r.MerkleCRDT = m
}

// A write that fails, whether it takes effect or not, makes no replica forget
// which blocks it still has to fetch.
func TestFailedWriteLosesNoWantedBlocks(t *testing.T) {
	for _, batching := range []bool{true, false} {
		for _, effect := range []bool{true, false} {
			for n := range 16 {
				t.Run(fmt.Sprintf("batching=%v/effect=%v/%d", batching, effect, n), func(t *testing.T) {
					t.Parallel()
					failOnceWhileFetching(t, n, batching, effect)
				})
			}
		}
	}
}

func failOnceWhileFetching(t *testing.T, n int, batching, effect bool) {
	net := newTestNet()
	a := net.newReplica(t)
	faulty := newFaultyStore()
	var store ds.Datastore = faulty
	if !batching {
		store = plainStore{faulty}
	}
	b := net.newReplicaOn(t, store, silent)
	net.split(0, 1)
	for i := range 5 {
		a.put("/k", fmt.Sprint(i))
	}
	faulty.failIn(n, 1, effect)
	net.heal()
	converge(t, a, b)
	faulty.heal() // the fault may not have come yet
}

func TestFailedQueryBringsNoDeletedValueBack(t *testing.T) {
	net := newTestNet()
	liar := net.node()
	store := newFaultyStore()
	var failed atomic.Int64
	var fail atomic.Bool
	store.onQuery = func(q query.Query) error { // for tombstones
		if !fail.Load() || !strings.HasSuffix(q.Prefix, "/s/t") {
			return nil
		}
		failed.Add(1)
		return errFault
	}
	r := net.newReplicaOn(t, store, silent)
	element := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
	id, err := blockIDOf(element)
	r.must(err)
	fail.Store(true)
	// The tombstone comes first: its block does not link to that of the element.
	r.offer(liar, &pb.Delta{Priority: 1, Tombstones: []*pb.Element{{Key: "/k", Id: id.dsKey()}}})
	waitFor(t, "a query to fail", func() bool { return failed.Load() > 0 })
	r.node.deliver(announcement(element))
	r.awaitMerged(element)
	fail.Store(false)
	if got := r.get("/k"); got != "(none)" {
		t.Errorf("/k is %q, and was deleted", got)
	}
}

// An interruptedDAG does something in the middle of a request for a block.
type interruptedDAG struct {
	*testNode
	next atomic.Pointer[interruption]
}

type interruption struct {
	at cid.Cid
	do func()
}

func (d *interruptedDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if i := d.next.Load(); i != nil && c == i.at && d.next.CompareAndSwap(i, nil) {
		i.do()
	}
	return d.testNode.Get(ctx, c)
}

// While Publish reads an older value, the block that it would have made is
// merged: another replica published the same.
func TestPublishLeavesTheSameBlockOfAnotherReplicaAlone(t *testing.T) {
	r := newTestNet().newReplica(t)
	dagSyncer := &interruptedDAG{testNode: r.node}
	r.reopenWith(dagSyncer, nil)
	r.put("/k", "1")
	loser := r.head()
	r.put("/k", "2")
	d, err := r.Set().Rmv(ctx, "/k")
	r.must(err)
	versions, err := d.GetTombstones()
	r.must(err)
	d.SetTombstones(versions[1:]) // the winner: this uncovers the loser

	d.SetPriority(3)
	heads, _ := r.frontier.get()
	same, err := r.blocks.build(d, heads.of(""))
	r.must(err)
	r.must(r.node.addRaw(same.id.Cid(), same.raw))
	merged := false
	dagSyncer.next.Store(&interruption{loser, func() {
		merged = true
		r.must(r.committer.do(ctx, func(c *commit) error { return c.merge(ctx, same) }))
	}})
	_, err = r.Publish(ctx, d)
	r.must(err)
	if raw, _, _ := r.node.find(same.id.Cid()); raw == nil || !merged {
		t.Errorf("other block merged: %v, still there: %v", merged, raw != nil)
	}
}

func TestPublishRunsHooksOnce(t *testing.T) {
	var calls atomic.Int32
	r := newTestNet().newReplica(t, func(o *Options) { o.PutHook = func(ds.Key, []byte) { calls.Add(1) } })
	d, err := r.Set().Add(ctx, "/k", []byte("v"))
	r.must(err)
	_, err = r.Publish(ctx, d)
	r.must(err)
	if n := calls.Load(); n != 1 {
		t.Errorf("the hook ran %d times", n)
	}
}

func TestPutWithACustomDeltaReplicates(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for _, r := range []*replica{a, b} {
		r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} }})
	}
	a.put("/k", "v")
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

// In fake time, since 80,000 links take a busy machine long.
func TestHonestHistoryArrivesBesideDeadLinks(t *testing.T) {
	synctest.Test(t, honestHistoryBesideDeadLinks)
}

func honestHistoryBesideDeadLinks(t *testing.T) {
	net := newTestNet()
	honest := net.newReplica(t)
	r := net.newReplica(t, func(o *Options) {
		o.DAGSyncerTimeout = patience // dead links fail soon
		o.RebroadcastInterval = 2 * time.Second
	})
	liar := net.node()
	net.split(0, 1, 1)
	for i := range 5 {
		honest.put("/k", fmt.Sprint(i))
	}
	for i := range 2 {
		var dead []cid.Cid
		for j := range 40_000 {
			dead = append(dead, unavailable(i*40_000+j))
		}
		r.offer(liar, &pb.Delta{Priority: 9, Elements: oneElement(fmt.Sprint("/evil", i))}, dead...)
	}
	// Both are merged, and nothing more is taken in.
	waitFor(t, "the walker to be full", func() bool { return r.walker.len() >= maxJobs })
	net.heal()
	waitFor(t, "the honest history", func() bool {
		return r.get("/k") == "4" && r.state(honest.head()) == complete
	})
}

func TestDroppedAnnouncementsLeaveNoMemoryBehind(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 20 {
		var heads []announced
		for j := range maxAnnounced {
			id, err := blockIDOf(unavailable(i*maxAnnounced + j))
			r.must(err)
			heads = append(heads, announced{id: id})
		}
		r.walker.announce(heads)
	}
	r.walker.mu.Lock()
	defer r.walker.mu.Unlock()
	held := 0
	for e := r.walker.rotation.Front(); e != nil; e = e.Next() {
		held += e.Value.(*walk).waiting.Len()
	}
	if jobs := len(r.walker.jobs); held > 2*jobs {
		t.Errorf("%d blocks are wanted, %d are held", jobs, held)
	}
}

// There are more heads than fit the links of a block.
func TestManyHeadsDoNotStopWrites(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) { o.MaxBlockSize = minBlockSize })
	liar := net.node()
	for i := range 100 {
		r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement(fmt.Sprint("/", i))})
	}
	waitFor(t, "100 heads", func() bool { n, _ := r.Heads().Len(ctx); return n == 100 })
	r.put("/k", "v")
	if n, _ := r.Heads().Len(ctx); n >= 100 {
		t.Errorf("%d heads after a write", n)
	}
}

func TestPanickingHookLeavesNoOtherWriterWaiting(t *testing.T) {
	var panicked atomic.Bool
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) {
			if panicked.CompareAndSwap(false, true) {
				panic("hook")
			}
		}
	})
	r.must(r.committer.acquire(ctx))
	ended := make(chan any, 2)
	for i := range 2 {
		go func() {
			defer func() { ended <- recover() }()
			r.put(fmt.Sprint("/", i), "v")
		}()
	}
	r.awaitWriters(2)
	r.committer.release()
	waitFor(t, "both writers to end", func() bool { return len(ended) == 2 })
	if first, second := <-ended, <-ended; (first == nil) == (second == nil) {
		t.Errorf("the writers panicked with %v and %v, want one panic", first, second)
	}
	if got := r.pairs(); len(got) != 2 {
		t.Errorf("pairs: %v", got)
	}
}

// Writers whose writes have been committed wait for their leader's hooks without
// taking the turn again and again.
func TestCommittedWritersLeaveTheTurnAlone(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) {
			begun <- struct{}{}
			<-goOn
		}
	})
	r.must(r.committer.acquire(ctx))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { r.put("/k", "v") })
	}
	r.awaitWriters(3)
	r.committer.release()
	<-begun
	if n := allocations(50 * time.Millisecond); n > 2000 {
		t.Errorf("%d allocations while all wait for a hook", n)
	}
	close(goOn)
	wg.Wait()
}

// allocations counts those of all goroutines in a while: few when all wait.
func allocations(while time.Duration) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	time.Sleep(while)
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

func TestHookValueIsNotTheCallersBuffer(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	seen := make(chan string, 2)
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) {
			if k.String() == "/slow" {
				close(begun)
				<-goOn
			}
			seen <- string(v)
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() { r.put("/slow", "v") })
	<-begun
	buffer := []byte("mine")
	r.must(r.Put(ctx, ds.NewKey("/k"), buffer)) // its hook waits behind the slow one
	copy(buffer, "evil")
	close(goOn)
	wg.Wait()
	<-seen
	if got := <-seen; got != "mine" {
		t.Errorf("the hook was given %q", got)
	}
}

// A linklessNode is a node of another implementation: only its bytes count.
type linklessNode struct{ ipld.Node }

func (linklessNode) Links() []*ipld.Link { return nil }

type linklessDAG struct{ *testNode }

func (d linklessDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	n, err := d.testNode.Get(ctx, c)
	return linklessNode{n}, err
}

func TestRepairReadsTheBytes(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/0", "v")
	first, err := blockIDOf(r.head())
	r.must(err)
	r.put("/1", "v")
	r.reopenWith(linklessDAG{r.node}, nil)
	mark := r.Datastore.store.keys.block(first)
	r.must(r.store.Delete(ctx, mark)) // a gap, as the old module may leave
	r.must(r.Repair(ctx))
	if found, err := r.store.Has(ctx, mark); !found || err != nil {
		t.Errorf("the gap was not found: %v", err)
	}
}

// What is written on a head that was put back may be what was written before.
// To peers it must be news.
func TestSameWriteOnAHeadThatWasPutBackReplicates(t *testing.T) {
	net := newTestNet()
	a, b := &replica{t: t, store: newAtomicStore(), node: net.node(), opts: testOptions()}, net.newReplica(t)
	a.open()
	defer a.Close() // and no check of the store: Replace leaves blocks that no head covers
	a.put("/base", "1")
	base, _, err := a.Heads().List(ctx)
	a.must(err)
	a.put("/k", "v")
	a.del("/k")
	converge(t, a, b)
	tops, _, err := a.Heads().List(ctx)
	a.must(err)
	a.must(a.Heads().Replace(ctx, tops[0], base[0]))
	a.put("/k", "v")
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

func TestRepairFetchesMissingChildren(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t)
	b := net.newReplica(t, func(o *Options) { o.DAGSyncerTimeout = 300 * time.Millisecond })
	var blocks []cid.Cid
	for i := range 6 {
		a.put("/k", fmt.Sprint(i))
		blocks = append(blocks, a.head())
	}
	converge(t, a, b)
	net.split(0, 1)
	for _, c := range blocks[:4] {
		id, err := blockIDOf(c)
		b.must(err)
		b.must(b.store.Delete(ctx, b.Datastore.store.keys.block(id)))
	}
	b.must(b.node.Remove(ctx, blocks[2]))
	if err := b.Repair(ctx); err == nil {
		t.Error("Repair without a block that it needs succeeded")
	}
	net.heal()
	for _, c := range blocks {
		b.awaitMerged(c)
	}
	waitFor(t, "the queue to be empty", func() bool { return len(b.rowsUnder("/q")) == 0 })
	converge(t, a, b) // what was found below a head is no head
}

func TestCloseCutsOffATraverseThatWaits(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.DAGSyncerTimeout = 0 })
	ended := make(chan error)
	go func() { ended <- r.Traverse(ctx, []cid.Cid{unavailable(0)}, nil) }()
	waitFor(t, "a request", func() bool {
		r.node.net.mu.Lock()
		defer r.node.net.mu.Unlock()
		return r.node.requests > 0
	})
	r.must(r.Close())
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Traverse: %v", err)
	}
}

func TestPendingBlockUnderAStrandedOneStaysUnderARoot(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{DagName: "..", Elements: oneElement("/k")}))
	waits := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 50, Elements: oneElement("/k")}), unavailable(0))
	top := r.offer(liar, &pb.Delta{Priority: 51, Elements: oneElement("/k")}, waits, bad)
	waitFor(t, "the top to be stranded", func() bool { return r.state(top) == stranded })
	id, err := blockIDOf(waits)
	r.must(err)
	waitFor(t, "the pending block to be a root", func() bool {
		_, roots := r.frontier.get()
		return roots[id].Height == 50
	})
	r.put("/k", "mine")
	if got := r.get("/k"); got != "mine" {
		t.Errorf("/k is %q after a Put", got)
	}
}

func TestLegacyAnnouncementWithAForeignCodecStartsNothing(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.node.deliver(cid.NewCidV1(cid.Raw, unavailable(0).Hash()).Bytes())
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement("/k")})) // heard after the first
	waitFor(t, "the walker to have nothing to do", func() bool { return r.walker.len() == 0 })
}

func TestRefusedPutLeavesTheBatchUsable(t *testing.T) {
	r := newTestNet().newReplica(t)
	b, err := r.Batch(ctx)
	r.must(err)
	if err := b.Put(ctx, ds.NewKey("/huge"), make([]byte, r.opts.MaxBlockSize-20)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Put: %v", err)
	}
	r.must(b.Put(ctx, ds.NewKey("/k"), []byte("v")))
	r.must(b.Commit(ctx))
	if got := r.pairs(); len(got) != 1 || got["/k"] != "v" {
		t.Errorf("pairs: %v", got)
	}
}

func TestLongDAGNamesAreRefused(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	longest := strings.Repeat("n", 255)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, DagName: longest, Elements: oneElement("/k")}))
	long := r.offer(liar, &pb.Delta{Priority: 1, DagName: longest + "n", Elements: oneElement("/k")})
	waitFor(t, "the block to be refused", func() bool { return r.state(long) == refused })
	d, err := r.Set().Add(ctx, "/k", nil)
	r.must(err)
	d.SetDagName(longest + "n")
	if _, err := r.Publish(ctx, d); !errors.Is(err, ErrInvalidBlock) {
		t.Errorf("Publish: %v", err)
	}
}

// A write that fails and takes effect all the same is told of soon, though no
// other commit comes.
func TestWriteThatOnlySeemedToFailIsToldOf(t *testing.T) {
	for _, kind := range []func(*faultyStore) ds.Datastore{
		func(s *faultyStore) ds.Datastore { return s },
		func(s *faultyStore) ds.Datastore { return plainStore{s} },
	} {
		synctest.Test(t, func(t *testing.T) {
			net := newTestNet()
			faulty := newFaultyStore()
			var hooked atomic.Int64
			a := net.newReplicaOn(t, kind(faulty), silent, func(o *Options) { o.PutHook = func(ds.Key, []byte) { hooked.Add(1) } })
			b := net.newReplica(t)
			faulty.failIn(0, 1, true)
			if err := a.Put(ctx, ds.NewKey("/k"), []byte("v")); !errors.Is(err, errFault) {
				t.Errorf("Put: %v", err)
			}
			time.Sleep(2 * retryPause)
			if got, n := b.get("/k"), hooked.Load(); got != "v" || n != 1 {
				t.Errorf("the other replica holds %q, %d hooks have run", got, n)
			}
		})
	}
}
