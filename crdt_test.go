package crdt

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	dstest "github.com/ipfs/go-datastore/test"
	badger "github.com/ipfs/go-ds-badger4"
	"go.uber.org/goleak"
)

var ctx = context.Background()

// No goroutine of ours outlives the tests; what packages start when they are
// loaded does.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

// stores are the kinds of store that the tests run on.
var stores = map[string]func(t *testing.T) ds.Datastore{
	"map":    func(*testing.T) ds.Datastore { return dssync.MutexWrap(ds.NewMapDatastore()) },
	"basic":  func(*testing.T) ds.Datastore { return basicStore{newAtomicStore()} },
	"plain":  func(*testing.T) ds.Datastore { return plainStore{newAtomicStore()} },
	"badger": newBadger,
}

func newBadger(t *testing.T) ds.Datastore {
	opts := badger.DefaultOptions
	opts.Options = opts.WithSyncWrites(false)
	store, err := badger.NewDatastore(t.TempDir(), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func TestConformance(t *testing.T) {
	dstest.ElemCount = 10 // the combinations take minutes with a hundred
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The suite's batches are larger than what is committed early.
			r := newTestNet().newReplicaOn(t, store(t), func(o *Options) { o.MaxBatchDeltaSize = 64 << 20 })
			dstest.SubtestAll(t, r.Datastore)
		})
	}
}

// The vectors of the wire format, byte for byte. They are without tags.
func TestVectors(t *testing.T) {
	want := []string{
		"bafybeibgjhlsecxy2cdeiq5awbkrnwqvxoulvge3qdecvi2grjnv7osgby", "0a0e0a0a0a042f612f621a0276311801",
		"0a260a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e",
		"bafybeigjdlce3qnc7lcea3azn7w7462uldxmora2vbjgpl2sicbk7trzky", "122a0a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e120018000a0e0a0a0a042f612f621a0276321802",
		"0a260a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956",
		"bafybeiba6k3dobnrxvxmpp4574akwa2znephwgrhbdxku4k7kpxod2u4zq", "122a0a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956120018000a0b0a070a022f611a01701803",
		"0a260a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc",
		"bafybeicd5ak4yuyrwdpz3b6tsoupdv6mvfezbt3w36lopra7t2kc7tmrmq", "122a0a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc120018000a860112400a042f612f6212382f434951434d534f58454946505255454749524232424d435643334e424c4f3549584b4d4a58414749464b52554e4353334c3635454d445112400a042f612f6212382f4349514d534757454a58413246365745494257425333374e375a35564957484f59354342564b43534d36585645514543563748445356511804",
		"0a260a240170122043e815cc5311b0df9d87d393a8f1d7cca94990cf76df96e7c41f9e942fcd9164",
		"bafybeideh4j5gu6kjxggwyivaugccg5t3wcfv3xzrmdaeyr6k66sjxyvzu", "0a150a0b0a022f6e1a056e616d65641801220464616731",
		"0a2c0a2401701220643f13d353ca4dcc6b6115050c211bb3dd845aeef98b0602623e57bd24df15cd120464616731",
	}
	r := newTestNet().newReplica(t, func(o *Options) { o.RebroadcastInterval = time.Hour })
	r.Datastore.blocks.newTag = func() []byte { return nil }
	step := 0
	check := func() {
		t.Helper()
		waitFor(t, "the announcement", func() bool {
			r.node.net.mu.Lock()
			defer r.node.net.mu.Unlock()
			return len(r.node.messages) > step
		})
		r.node.net.mu.Lock()
		defer r.node.net.mu.Unlock()
		c, err := cid.Decode(want[3*step])
		r.must(err)
		if got := hex.EncodeToString(r.node.blocks[c]); got != want[3*step+1] {
			t.Errorf("block %d is %s, want %s", step, got, want[3*step+1])
		}
		if got := hex.EncodeToString(r.node.messages[step]); got != want[3*step+2] {
			t.Errorf("broadcast %d is %s, want %s", step, got, want[3*step+2])
		}
		step++
	}
	r.put("/a/b", "v1")
	check()
	r.put("/a/b", "v2")
	check()
	r.put("/a", "p")
	check()
	r.del("/a/b")
	check()
	d, err := r.Set().Add(ctx, "/n", []byte("named"))
	r.must(err)
	d.SetDagName("dag1")
	_, err = r.Publish(ctx, d)
	r.must(err)
	check()
}

func TestLegacyAnnouncementIsOneCID(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.RebroadcastInterval = time.Hour })
	net.split(0, 1)
	a.put("/k", "v")
	b := net.newReplica(t)
	heads, _, err := a.Heads().List(ctx)
	a.must(err)
	b.node.deliver(heads[0].Cid.Bytes())
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

func TestReplication(t *testing.T) {
	net := newTestNet()
	var replicas []*replica
	for range 5 {
		replicas = append(replicas, net.newReplica(t))
	}
	for i, r := range replicas {
		for j := range 20 {
			r.put(fmt.Sprintf("/%d/%d", i, j), "x")
			r.put(fmt.Sprintf("/shared/%d", j), fmt.Sprint(i))
		}
	}
	if pairs := converge(t, replicas...); len(pairs) != 120 {
		t.Errorf("%d pairs, want 120", len(pairs))
	}
}

// Many replicas write and delete the same keys over a network that loses,
// doubles, shuffles and garbles messages, and is split; some are restarted.
func TestConvergenceUnderFaults(t *testing.T) {
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			net := newTestNet()
			net.drop, net.duplicate, net.reorder, net.corrupt = 0.3, 0.2, 0.2, 0.1
			rng := rand.New(rand.NewPCG(7, uint64(len(name))))
			var replicas []*replica
			for range 4 {
				replicas = append(replicas, net.newReplicaOn(t, store(t)))
			}
			for step := range 300 {
				r := replicas[rng.IntN(len(replicas))]
				randomWrite(r, rng, step)
				switch {
				case step%60 == 30:
					net.split(rng.IntN(2), rng.IntN(2), rng.IntN(2), rng.IntN(2))
				case step%100 == 70:
					r.restart()
				}
			}
			net.heal()
			converge(t, replicas...)
		})
	}
}

func randomWrite(r *replica, rng *rand.Rand, step int) {
	key := fmt.Sprintf("/k/%d", rng.IntN(20))
	switch rng.IntN(4) {
	case 0:
		r.del(key)
	case 1:
		b, err := r.Batch(ctx)
		r.must(err)
		for range 5 {
			k := ds.NewKey(fmt.Sprintf("/k/%d", rng.IntN(20)))
			if rng.IntN(2) == 0 {
				r.must(b.Delete(ctx, k))
			} else {
				r.must(b.Put(ctx, k, []byte(fmt.Sprintf("b%d", step))))
			}
		}
		r.must(b.Commit(ctx))
	default:
		r.put(key, fmt.Sprint(step))
	}
}

func TestPartitionedWritesFollowTheRules(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	a.put("/deleted-here", "old")
	a.put("/both", "old")
	converge(t, a, b)

	net.split(0, 1)
	a.del("/deleted-here") // against a concurrent put: the put survives
	b.put("/deleted-here", "new")
	a.put("/both", "aaa") // same priority is not given: b writes more
	a.put("/equal", "x")
	b.put("/equal", "y")
	b.put("/both", "1")
	b.put("/both", "0")
	net.heal()

	got := converge(t, a, b)
	if got["/deleted-here"] != "new" {
		t.Errorf("a put concurrent to a delete was lost: %q", got["/deleted-here"])
	}
	if got["/both"] != "0" {
		t.Errorf("/both is %q, want that of the highest priority", got["/both"])
	}
}

func TestEqualPriorityGreatestValueWins(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/k", "abc")
	b.put("/k", "abd")
	net.heal()
	if got := converge(t, a, b)["/k"]; got != "abd" {
		t.Errorf("/k is %q, want the greater value", got)
	}
}

func TestEmptyValueSurvivesDeletionOfAConcurrentVersion(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/k", "")
	b.put("/k", "b")
	b.put("/other", "raises b's height")
	b.put("/k", "b2")
	b.del("/k")
	net.heal()
	if got, ok := converge(t, a, b)["/k"]; got != "" || !ok {
		t.Errorf("/k is %q (%v), want the empty value", got, ok)
	}
}

func TestKeysThatLookLikeRows(t *testing.T) {
	r := newTestNet().newReplica(t)
	for _, k := range []string{"/a", "/a/v", "/a/p", "/s/k", "/s/r/a", "/h", "/crdt_version", "/a%2Fb", "/%"} {
		r.put(k, "1"+k)
		r.put(k, k)
	}
	r.del("/a")
	for k, v := range r.pairs() {
		if k != v {
			t.Errorf("%s is %s", k, v)
		}
	}
	if n := len(r.pairs()); n != 8 {
		t.Errorf("%d pairs, want 8", n)
	}
}

func TestBatchesAreIsolated(t *testing.T) {
	r := newTestNet().newReplica(t)
	key := ds.NewKey
	r.put("/gone", "x")
	r.put("/again", "x")
	one, _ := r.Batch(ctx)
	two, _ := r.Batch(ctx)
	abandoned, _ := r.Batch(ctx)
	r.must(one.Put(ctx, key("/one"), []byte("1")))
	r.must(two.Put(ctx, key("/two"), []byte("1")))
	r.must(two.Put(ctx, key("/two"), []byte("2")))
	r.must(two.Put(ctx, key("/gone"), []byte("y")))
	r.must(two.Delete(ctx, key("/gone")))
	r.must(two.Delete(ctx, key("/again")))
	r.must(two.Put(ctx, key("/again"), []byte("y")))
	r.must(abandoned.Put(ctx, key("/abandoned"), []byte("1")))
	if r.get("/one") != "(none)" || r.get("/two") != "(none)" {
		t.Error("a batch is visible before its commit")
	}
	r.must(two.Commit(ctx))
	if r.get("/one") != "(none)" || r.get("/two") != "2" || r.get("/gone") != "(none)" || r.get("/again") != "y" {
		t.Errorf("after one commit: %v", r.pairs())
	}
	r.must(one.Commit(ctx))
	if r.get("/one") != "1" || r.get("/abandoned") != "(none)" {
		t.Errorf("after both commits: %v", r.pairs())
	}
	if s := r.InternalStats(ctx); s.MaxHeight != 4 {
		t.Errorf("two puts and two batches made %d blocks", s.MaxHeight)
	}
}

func TestBatchCommitsEarlyWhenItOutgrowsTheLimit(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.MaxBatchDeltaSize = 200 })
	b, _ := r.Batch(ctx)
	for i := range 5 {
		r.must(b.Put(ctx, ds.NewKey(fmt.Sprint(i)), make([]byte, 50)))
	}
	if r.get("/0") == "(none)" || r.get("/4") != "(none)" {
		t.Errorf("the batch was not committed early: %v", r.pairs())
	}
}

func TestDeleteOfManyVersionsNeverShowsAnOldValue(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.MaxBatchDeltaSize = 1000 })
	b := net.newReplica(t, func(o *Options) {
		o.PutHook = func(_ ds.Key, v []byte) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, string(v))
		}
	})
	for i := range 100 {
		a.put("/k", fmt.Sprintf("%03d", i))
	}
	converge(t, a, b)
	mu.Lock()
	seen = nil
	mu.Unlock()
	a.del("/k")
	if pairs := converge(t, a, b); len(pairs) != 0 {
		t.Errorf("left: %v", pairs)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) > 0 {
		t.Errorf("old values came back: %v", seen)
	}
	if h := a.InternalStats(ctx).MaxHeight; h < 102 {
		t.Errorf("100 tombstones of 1000 bytes at most a block made %d blocks in all", h)
	}
	if rows := append(a.rowsUnder("/s/l"), a.rowsUnder("/s/t")...); len(rows) > 0 {
		t.Errorf("%d rows are left of the versions", len(rows))
	}
}

func TestDeleteUncoversAConcurrentVersion(t *testing.T) {
	var mu sync.Mutex
	var events []string
	net := newTestNet()
	a := net.newReplica(t)
	b := net.newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { mu.Lock(); events = append(events, "put "+string(v)); mu.Unlock() }
		o.DeleteHook = func(k ds.Key) { mu.Lock(); events = append(events, "delete"); mu.Unlock() }
	})
	net.split(0, 1)
	a.put("/k", "z")
	b.put("/k", "y")
	net.split(0, 1, 2)
	c := net.newReplica(t)
	net.split(0, 1, 0) // c learns of a's version alone, and deletes it
	converge(t, a, c)
	c.del("/k")
	net.heal()
	if got := converge(t, a, b, c)["/k"]; got != "y" {
		t.Errorf("/k is %q, want the concurrent version", got)
	}
	mu.Lock()
	defer mu.Unlock()
	// b may learn of the deletion before it has seen the version.
	got := strings.Join(events, ", ")
	if got != "put y" && got != "put y, put z, delete, put y" {
		t.Errorf("hooks were told: %s", got)
	}
}

func TestHooksMayWrite(t *testing.T) {
	var r *replica
	opened := make(chan struct{})
	r = newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) {
			<-opened
			if !strings.HasPrefix(k.String(), "/copy") {
				r.put("/copy"+k.String(), string(v))
			}
		}
	})
	close(opened)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { r.put(fmt.Sprintf("/k/%d", i), "v") })
	}
	wg.Wait()
	waitFor(t, "the hooks", func() bool { return len(r.pairs()) == 16 })
}

func TestHooksRunInCommitOrderBeforePutReturns(t *testing.T) {
	var events []string
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { events = append(events, "+"+k.String()+"="+string(v)) }
		o.DeleteHook = func(k ds.Key) { events = append(events, "-"+k.String()) }
	})
	r.put("/a", "1")
	r.put("/a", "2")
	r.del("/a")
	r.del("/a")
	if got := strings.Join(events, " "); got != "+/a=1 +/a=2 -/a" {
		t.Errorf("hooks were told: %s", got)
	}
}

func TestOfflineReplica(t *testing.T) {
	d, err := New(newAtomicStore(), testNamespace, newTestNet().node(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(ctx, ds.NewKey("/k"), []byte("v")); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreCheckedAllAtOnce(t *testing.T) {
	opts := &Options{DAGSyncerTimeout: -1}
	before := *opts
	_, err := New(newAtomicStore(), testNamespace, newTestNet().node(), nil, opts)
	for _, name := range []string{"RebroadcastInterval", "NumWorkers", "DAGSyncerTimeout", "MaxBatchDeltaSize"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	if fmt.Sprint(*opts) != fmt.Sprint(before) {
		t.Error("the caller's options were changed")
	}
	if _, err := New(nil, testNamespace, newTestNet().node(), nil, nil); err == nil {
		t.Error("a nil store was accepted")
	}
}

func TestClosed(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	b, _ := r.Batch(ctx)
	r.must(r.Close())
	r.must(r.Close())
	k := ds.NewKey("/k")
	_, getErr := r.Get(ctx, k)
	_, hasErr := r.Has(ctx, k)
	_, sizeErr := r.GetSize(ctx, k)
	_, batchErr := r.Batch(ctx)
	_, _, listErr := r.Heads().List(ctx)
	_, procErr := r.IsProcessed(ctx, cid.Undef)
	_, purgeErr := r.PurgeDAG(ctx, "x")
	_, pubErr := r.Publish(ctx, newPBDelta())
	for i, err := range []error{getErr, hasErr, sizeErr, batchErr, listErr, procErr, purgeErr, pubErr, r.Put(ctx, k, nil), r.Delete(ctx, k),
		r.Sync(ctx, k), r.Repair(ctx), r.PrintDAG(ctx), b.Put(ctx, k, nil), b.Commit(ctx)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
}

// A second Close returns when the datastore is closed, not before.
func TestCloseTwiceAtOnce(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) { close(begun); <-goOn }
	})
	go func() { _ = r.Put(ctx, ds.NewKey("/k"), nil) }() // until the hook has run
	<-begun
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- r.Close() }()
	}
	waitFor(t, "Close to begin", r.closed.Load)
	for range 100 {
		runtime.Gosched() // whoever does not wait has ended by now
	}
	if n := len(ended); n > 0 {
		t.Errorf("%d calls have ended", n)
	}
	close(goOn)
	for range 2 {
		r.must(<-ended)
	}
}

func TestPutWithCancelledContext(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 200 {
		ctx, cancel := context.WithCancel(ctx)
		go cancel()
		key := ds.NewKey(fmt.Sprint(i))
		err := r.Put(ctx, key, []byte("v"))
		has, _ := r.Has(context.Background(), key)
		if has != (err == nil) {
			t.Fatalf("Put said %v, and the key is there: %v", err, has)
		}
	}
}

func TestDAGServiceThatRefusesFailsTheWrite(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "v")
	refusal := errors.New("disk full")
	r.node.addError = refusal
	if err := r.Put(ctx, ds.NewKey("/b"), []byte("v")); !errors.Is(err, refusal) {
		t.Errorf("Put: %v", err)
	}
	r.node.addError = nil
	if len(r.pairs()) != 1 || r.InternalStats(ctx).MaxHeight != 1 {
		t.Errorf("the failed write left a trace: %v", r.pairs())
	}
	r.put("/c", "v")
}

func TestTooLarge(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/fits", strings.Repeat("x", 2<<20-1000))
	for _, size := range []int{2 << 20, 2<<20 - 20} {
		err := r.Put(ctx, ds.NewKey("/k"), make([]byte, size))
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "MaxBlockSize") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	b, _ := r.Batch(ctx)
	if err := b.Put(ctx, ds.NewKey("/k"), make([]byte, 2<<20)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("in a batch: %v", err)
	}
	big := newTestNet().newReplica(t, func(o *Options) { o.MaxBlockSize = 8 << 20 })
	big.put("/k", strings.Repeat("x", 4<<20))
}

func TestConcurrentWritersShareBlocks(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	a.must(a.committer.acquire(ctx)) // as a commit would, while the others come
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() { a.put(fmt.Sprint("/", i), "v") })
	}
	waitFor(t, "all writers", func() bool {
		a.writer.mu.Lock()
		defer a.writer.mu.Unlock()
		return len(a.writer.queue) == 64
	})
	a.committer.release()
	wg.Wait()
	if h := a.InternalStats(ctx).MaxHeight; h != 1 {
		t.Errorf("%d blocks for 64 concurrent puts", h)
	}
	if n := len(converge(t, a, b)); n != 64 {
		t.Errorf("%d pairs", n)
	}
}

func TestWritesOfManyGoroutinesAreSeenWhenTheyReturn(t *testing.T) {
	r := newTestNet().newReplica(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			key := fmt.Sprint("/", i)
			for j := range 20 {
				if r.put(key, fmt.Sprint(j)); r.get(key) != fmt.Sprint(j) {
					t.Errorf("a Put that returned is not seen")
				}
				if r.del(key); r.get(key) != "(none)" {
					t.Errorf("a Delete that returned is not seen")
				}
			}
		})
	}
	wg.Wait()
}

// A write whose context ends while it waits for its turn writes nothing, and
// does not fail those that share the block.
func TestCancelledWriteLeavesTheGroup(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.must(r.committer.acquire(ctx))
	cancelled, cancel := context.WithCancel(ctx)
	errs := make(chan error)
	go func() { errs <- r.Put(cancelled, ds.NewKey("/cancelled"), nil) }()
	var wg sync.WaitGroup
	wg.Go(func() { r.put("/kept", "v") })
	r.awaitWriters(2)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	r.committer.release()
	wg.Wait()
	if got := r.pairs(); len(got) != 1 || got["/kept"] != "v" {
		t.Errorf("pairs: %v", got)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	r := newTestNet().newReplicaOn(t, newBadger(t))
	for i := range 50 {
		r.put(fmt.Sprintf("/%d", i%10), fmt.Sprint(i))
	}
	before := r.pairs()
	heads := r.InternalStats(ctx).Heads
	r.restart()
	if after := r.pairs(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v, after %v", before, after)
	}
	if got := r.InternalStats(ctx).Heads; !slices.Equal(got, heads) {
		t.Errorf("heads before %v, after %v", heads, got)
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	store := newAtomicStore()
	_ = store.Put(ctx, testNamespace.ChildString("crdt_version"), []byte{9})
	if _, err := New(store, testNamespace, newTestNet().node(), nil, nil); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("New: %v", err)
	}
}

func TestPutValueBelongsToCallerAfterwards(t *testing.T) {
	r := newTestNet().newReplica(t)
	value := []byte("before")
	b, _ := r.Batch(ctx)
	r.must(b.Put(ctx, ds.NewKey("/batch"), value))
	r.must(r.Put(ctx, ds.NewKey("/put"), value))
	copy(value, "xxxxxx")
	r.must(b.Commit(ctx))
	if !bytes.Equal([]byte(r.get("/batch")+r.get("/put")), []byte("beforebefore")) {
		t.Errorf("values changed: %v", r.pairs())
	}
}

// The queue of writes must not keep what has been written.
func TestFinishedWritesAreForgotten(t *testing.T) {
	const writes = 64
	r := newTestNet().newReplica(t)
	<-r.committer.turn
	var wg sync.WaitGroup
	values := make(chan weak.Pointer[[1 << 10]byte], writes)
	for i := range writes {
		wg.Go(func() {
			v := new([1 << 10]byte)
			values <- weak.Make(v)
			r.must(r.Put(ctx, ds.NewKey(fmt.Sprint("/", i%2)), v[:]))
		})
	}
	r.awaitWriters(writes)
	r.committer.turn <- struct{}{}
	wg.Wait()
	close(values)
	var all []weak.Pointer[[1 << 10]byte]
	for p := range values {
		all = append(all, p)
	}
	waitFor(t, "the values to go", func() bool {
		runtime.GC()
		kept := 0
		for _, p := range all {
			if p.Value() != nil {
				kept++
			}
		}
		return kept <= 2 // the store may have those that won
	})
}
