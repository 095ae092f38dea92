package crdt

import (
	"errors"
	"sync"
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
	real, roots := r.frontier.get()
	many := make(tips)
	for i := range 5000 {
		id, err := blockIDOf(unavailable(i))
		r.must(err)
		many[id] = HeadValue{Height: 1, DAGName: []string{"", "named"}[i%2]}
	}
	r.frontier.set(many, roots)
	defer func() { r.frontier.set(real, roots) }()
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
	r.frontier.set(make(tips), roots)
	if n := r.frontier.width(""); n != 0 {
		t.Errorf("%d heads are left", n)
	}
}

// A record that says that its versions are among the losers, where there are none.
func TestDamagedRecordFailsTheWriteWithAnError(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	key := r.Datastore.store.keys.record("/k")
	good, err := r.store.Get(ctx, key)
	r.must(err)
	bad := append([]byte{}, good...)
	bad[0] |= flagUnresolved
	r.must(r.store.Put(ctx, key, bad))
	if err := r.Delete(ctx, ds.NewKey("/k")); !errors.Is(err, errBadRecord) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := r.Set().Rmv(ctx, "/k"); !errors.Is(err, errBadRecord) {
		t.Errorf("Rmv: %v", err)
	}
	r.put("/other", "v")
	r.must(r.store.Put(ctx, key, good))
}

// A swollen delta marshals to much more than its elements are, or not at all.
type swollen struct{ *pbDelta }

var errSwollen = errors.New("this delta does not marshal")

func (d swollen) Marshal() ([]byte, error) {
	elements, err := d.GetElements()
	for _, e := range elements {
		if e.GetKey() == "/fails" {
			return nil, errSwollen
		}
	}
	b, _ := d.pbDelta.Marshal()
	for range 3 { // a field that nobody knows
		b = appendBytes(b, 50, b)
	}
	return b, err
}

func TestDeltaThatIsLargerThanItLooksFailsAlone(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return swollen{&pbDelta{}} }})
	r.must(r.committer.acquire(ctx))
	errs := make(map[string]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for key, size := range map[string]int{"/large": 400 << 10, "/fails": 10, "/a": 100 << 10, "/b": 100 << 10, "/c": 100 << 10} {
		wg.Go(func() {
			err := r.Put(ctx, ds.NewKey(key), make([]byte, size))
			mu.Lock()
			defer mu.Unlock()
			errs[key] = err
		})
	}
	r.awaitWriters(5)
	r.committer.release()
	wg.Wait()
	if !errors.Is(errs["/large"], ErrTooLarge) || !errors.Is(errs["/fails"], errSwollen) || errs["/a"] != nil || errs["/b"] != nil || errs["/c"] != nil {
		t.Errorf("errors: %v", errs)
	}
	if got := len(r.pairs()); got != 3 {
		t.Errorf("%d pairs", got)
	}
}
