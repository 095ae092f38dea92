package crdt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dstest "github.com/ipfs/go-datastore/test"
	"go.uber.org/goleak"
)

// No goroutine of ours outlives the tests; what packages start when they are
// loaded does.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

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
