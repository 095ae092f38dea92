package crdt

import (
	"errors"
	"fmt"
	"testing"

	ds "github.com/ipfs/go-datastore"
)

// A hook may use the batch whose commit runs it: what it puts is in the next.
func TestHookMayUseTheBatchThatRunsIt(t *testing.T) {
	var b ds.Batch
	r := newTestNet().newReplica(t, func(o *Options) {
		o.MaxBatchDeltaSize = 100
		o.PutHook = func(k ds.Key, v []byte) {
			if k.String() == "/k" || k.String() == "/large" {
				_ = b.Put(ctx, ds.NewKey("/index"+k.String()), v[:1])
			}
			_ = b.Commit(ctx)
		}
	})
	var err error
	b, err = r.Batch(ctx)
	r.must(err)
	r.must(b.Put(ctx, ds.NewKey("/k"), []byte("v")))
	awaitNil(t, "Commit", func() error { return b.Commit(ctx) })
	awaitNil(t, "a Put that outgrows the batch", func() error { return b.Put(ctx, ds.NewKey("/large"), make([]byte, 200)) })
	waitFor(t, "the hooks", func() bool { return len(r.pairs()) == 4 })
}

// What a commit that failed had taken is in the batch again, below what came meanwhile.
func TestFailedCommitPutsItsChangesBackBelowTheNext(t *testing.T) {
	faulty := newFaultyStore()
	r := newTestNet().newReplicaOn(t, faulty, silent)
	r.put("/gone", "v")
	b, err := r.Batch(ctx)
	r.must(err)
	r.must(b.Put(ctx, ds.NewKey("/old"), []byte("1")))
	r.must(b.Put(ctx, ds.NewKey("/both"), []byte("1")))
	r.must(b.Delete(ctx, ds.NewKey("/gone")))
	faulty.failIn(0, 1, false)
	r.must(r.committer.acquire(ctx))
	failed := make(chan error)
	go func() { failed <- b.Commit(ctx) }()
	r.awaitWriters(1)
	r.must(b.Put(ctx, ds.NewKey("/both"), []byte("2")))
	r.must(b.Put(ctx, ds.NewKey("/gone"), []byte("2")))
	r.committer.release()
	if err := <-failed; !errors.Is(err, errFault) {
		t.Fatalf("Commit: %v", err)
	}
	r.must(b.Commit(ctx))
	if got := r.pairs(); len(got) != 3 || got["/old"] != "1" || got["/both"] != "2" || got["/gone"] != "2" {
		t.Errorf("pairs: %v", got)
	}
	if rows := r.rowsUnder("/s/l"); len(rows) > 0 {
		t.Errorf("%d versions of what was deleted first are left", len(rows))
	}
}

// What a batch asks about the heads is counted once, not for each Put.
func TestBatchPutDoesNotLookThroughAllHeads(t *testing.T) {
	r := newTestNet().newReplica(t)
	real, pendingHeads := r.frontier.tips()
	many := make(tips)
	for i := range 5000 {
		id, err := blockIDOf(unavailable(i))
		r.must(err)
		many[id] = HeadValue{Height: 1, DAGName: []string{"", "named"}[i%2]}
	}
	r.frontier.set(many, pendingHeads, nil)
	defer func() { r.frontier.set(real, pendingHeads, nil) }()
	for name, want := range map[string]int{"": 2500, "named": 2500, "none": 0} {
		if n := r.frontier.width(name); n != want {
			t.Errorf("%q has %d heads, want %d", name, n, want)
		}
	}
	b, err := r.Batch(ctx)
	r.must(err)
	put := func() { r.must(b.Put(ctx, ds.NewKey("/k"), nil)) }
	put()
	if n := testing.AllocsPerRun(100, put); n > 10 {
		t.Errorf("a Put allocates %v times", n)
	}
	r.frontier.set(make(tips), pendingHeads, nil)
	if n := r.frontier.width(""); n != 0 {
		t.Errorf("%d heads are left", n)
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
