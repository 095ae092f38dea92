package crdt

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// An insideDAG also keeps its blocks in the store of its replica, where a
// blockstore at some place would have them.
type insideDAG struct {
	*testNode
	store ds.Datastore
	place ds.Key
}

func (d insideDAG) keep(ctx context.Context, nodes ...ipld.Node) error {
	for _, n := range nodes {
		id, err := blockIDOf(n.Cid())
		if err == nil {
			err = d.store.Put(ctx, d.place.ChildString("blocks").ChildString(id.String()), n.RawData())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d insideDAG) Add(ctx context.Context, n ipld.Node) error {
	if err := d.testNode.Add(ctx, n); err != nil {
		return err
	}
	return d.keep(ctx, n)
}

func (d insideDAG) AddMany(ctx context.Context, nodes []ipld.Node) error {
	if err := d.testNode.AddMany(ctx, nodes); err != nil {
		return err
	}
	return d.keep(ctx, nodes...)
}

// Blocks may lie inside the namespace, below the rows of any kind. None of them
// passes for such a row.
func TestBlocksInsideTheNamespace(t *testing.T) {
	for _, place := range []string{"", "/b", "/h", "/a", "/q", "/p", "/r", "/s", "/d", "/bs", "/w", "/crdt_version"} {
		t.Run(place, func(t *testing.T) {
			r := newTestNet().newReplica(t)
			inside := insideDAG{r.node, r.store, ds.RawKey(testNamespace.String() + place)}
			r.reopenWith(inside, nil)
			for i := range 5 {
				r.put("/k", fmt.Sprint(i))
			}
			gap, err := blockIDOf(r.head())
			r.must(err)
			r.put("/k", "last")
			d, err := r.Set().Add(ctx, "/named", []byte("v"))
			r.must(err)
			d.SetDagName("dag")
			_, err = r.Publish(ctx, d)
			r.must(err)
			heads := r.InternalStats(ctx).Heads
			r.reopenWith(inside, nil)
			if s := r.InternalStats(ctx); fmt.Sprint(s.Heads) != fmt.Sprint(heads) || s.QueuedJobs > 0 {
				t.Errorf("opened with %v, want the heads %v", s, heads)
			}

			// Forget a block in the middle and its version.
			keys := r.Datastore.store.keys
			for _, k := range []ds.Key{keys.block(gap), keys.loser("/k", gap)} {
				r.must(r.store.Delete(ctx, k))
			}
			r.MarkDirty(ctx)
			r.must(r.Repair(ctx))
			if !r.state(gap.Cid()).merged() || r.IsDirty(ctx) {
				t.Error("the gap was not found")
			}
		})
	}
}

// A gap may be a block that breaks a rule of today. It is refused, once.
func TestRepairRefusesAMissedBlock(t *testing.T) {
	r := &replica{t: t, store: newAtomicStore(), node: newTestNet().node(), opts: testOptions()}
	r.open()
	defer func() { r.must(r.Close()) }() // and no check of the store: the history of its head is not complete
	r.put("/forbidden/k", "v")
	bad, err := blockIDOf(r.head())
	r.must(err)
	r.put("/k", "v")
	for _, k := range []ds.Key{r.Datastore.store.keys.block(bad), r.Datastore.store.keys.record("/forbidden/k")} {
		r.must(r.store.Delete(ctx, k))
	}
	forbid(r.opts)
	r.restart()
	r.MarkDirty(ctx)
	r.must(r.Repair(ctx))
	if r.state(bad.Cid()) != refused || r.IsDirty(ctx) || r.get("/forbidden/k") != "(none)" {
		t.Errorf("after the repair: state %d, dirty %v", r.state(bad.Cid()), r.IsDirty(ctx))
	}
}

// Nobody has what lies below a block that breaks a rule, and nobody needs it. Were a
// repair to look for it, the datastore would be dirty for ever.
func TestRepairEndsAtARefusedBlock(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused before: %v", before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { repairAboveARefusedBlock(t, before) })
		})
	}
}

func repairAboveARefusedBlock(t *testing.T, before bool) {
	net := newTestNet()
	r := &replica{t: t, store: newAtomicStore(), node: net.node(), opts: testOptions()}
	forbid(r.opts)
	r.open()
	defer func() { r.must(r.Close()) }() // and no check of the store: the history of its head is not complete
	liar := net.node()
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement("/forbidden/k")}), unavailable(0))
	old := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 3, Elements: oneElement("/k")}), bad)
	if before {
		r.node.deliver(announcement(bad))
		waitFor(t, "the refusal", func() bool { return r.state(bad) == refused })
	}
	id, err := blockIDOf(old)
	r.must(err)
	keys := r.Datastore.store.keys
	r.must(r.store.Put(ctx, keys.block(id), nil)) // as the old module may leave it
	r.must(r.store.Put(ctx, keys.head(id, HeadValue{}), headRow(HeadValue{Height: 3})))
	r.restart()
	r.MarkDirty(ctx)
	r.must(r.Repair(ctx))
	if r.state(bad) != refused || r.IsDirty(ctx) || r.get("/forbidden/k") != "(none)" {
		t.Errorf("after the repair: state %d, dirty %v", r.state(bad), r.IsDirty(ctx))
	}
}

// A block that a repair finds below a head of another DAG is a head of its own,
// and one below a head of its own DAG is not.
func TestRepairMakesHeadsOfOtherDAGs(t *testing.T) {
	net := newTestNet()
	r, liar := net.newReplica(t), net.node()
	first := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "x", Elements: oneElement("/first")}))
	second := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/second")}), first)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 3, Elements: oneElement("/main")}, second))
	waitFor(t, "the heads", func() bool { return len(r.InternalStats(ctx).Heads) == 2 })
	want := r.InternalStats(ctx).Heads
	r.must(r.Close())
	for _, c := range []cid.Cid{first, second} { // a gap, as the old module may leave
		id, err := blockIDOf(c)
		r.must(err)
		for _, k := range []ds.Key{r.Datastore.store.keys.block(id), r.Datastore.store.keys.head(id, HeadValue{DAGName: "x"})} {
			r.must(r.store.Delete(ctx, k))
		}
	}
	r.open()
	r.MarkDirty(ctx)
	r.must(r.Repair(ctx))
	if got := r.InternalStats(ctx).Heads; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("heads after the repair: %v, want %v", got, want)
	}
}

// A gap below a head that was taken to be complete may be filled by an announcement.
// Nobody can tell then that the block is no head; a repair does.
func TestRepairTakesAwayHeadsBelowOthers(t *testing.T) {
	net := newTestNet()
	r, peer := net.newReplica(t), net.node()
	r.put("/k", "below")
	below := r.head()
	r.put("/k", "above")
	want := r.InternalStats(ctx).Heads
	id, err := blockIDOf(below)
	r.must(err)
	r.must(r.Close())
	r.must(r.store.Delete(ctx, r.Datastore.store.keys.block(id)))
	r.open()
	r.must(peer.Broadcast(ctx, announcement(below)))
	r.awaitMerged(below)
	waitFor(t, "the head too many", func() bool { return len(r.InternalStats(ctx).Heads) == 2 })
	r.MarkDirty(ctx)
	r.must(r.Repair(ctx))
	if got := r.InternalStats(ctx).Heads; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("heads after the repair: %v, want %v", got, want)
	}
}

// A head stays one if a block of another DAG above it cannot be read for a while.
func TestRepairKeepsHeadsBelowWhatCannotBeRead(t *testing.T) {
	r := newTestNet().newReplica(t, silent)
	r.put("/k", "below")
	above := r.offer(r.node.net.node(), &pb.Delta{Priority: 2, DagName: "x"}, r.head())
	r.awaitMerged(above)
	waitFor(t, "the heads", func() bool { return len(r.InternalStats(ctx).Heads) == 2 })
	want := fmt.Sprint(r.InternalStats(ctx).Heads)
	service := &forgetfulDAG{testNode: r.node, of: above}
	r.reopenWith(service, nil)
	r.MarkDirty(ctx)
	service.reads.Store(1)
	if err := r.Repair(ctx); err == nil || service.reads.Load() >= 0 || !r.IsDirty(ctx) {
		t.Errorf("Repair: %v, after %d reads", err, 1-service.reads.Load())
	}
	service.reads.Store(1 << 20)
	r.must(r.Repair(ctx))
	if got := fmt.Sprint(r.InternalStats(ctx).Heads); got != want || r.IsDirty(ctx) {
		t.Errorf("heads after the repair: %v, want %v", got, want)
	}
}

// A forgetfulDAG lets a block be read so many times.
type forgetfulDAG struct {
	*testNode
	of    cid.Cid
	reads atomic.Int64
}

func (d *forgetfulDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if c == d.of && d.reads.Add(-1) < 0 {
		return nil, errNoBlock
	}
	return d.testNode.Get(ctx, c)
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

// What a store of the old module lacks may be nowhere but in a snapshot. That is only taken
// once a repair has given up, however long a request may take.
func TestRepairGivesUpWhatNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		patient := func(o *Options) { o.DAGSyncerTimeout, o.RebroadcastInterval = 0, time.Minute }
		a, b := net.newReplica(t, silent, patient), net.newReplica(t, silent, patient)
		for i := range 6 {
			a.put(fmt.Sprint("/", i), "v")
		}
		gap := a.head()
		a.put("/top", "v")
		converge(t, a, b)
		b.must(b.Close())
		for _, k := range []ds.Key{b.Datastore.store.keys.block(idOf(gap)), b.Datastore.store.keys.record("/5")} {
			b.must(b.store.Delete(ctx, k))
		}
		b.must(b.node.Remove(ctx, gap))
		b.must(b.store.Put(ctx, b.Datastore.store.keys.dirty, nil))
		a.checkpoint()
		a.compact()
		b.open()
		time.Sleep(3 * b.opts.RepairInterval)
		converge(t, a, b)
		if b.IsDirty(ctx) {
			t.Error("it is dirty still")
		}
	})
}

func TestRepairMergesWhatWasMissed(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 20 {
		r.put("/k", fmt.Sprint(i))
	}
	heads := r.InternalStats(ctx).Heads
	r.MarkDirty(ctx)
	if !r.IsDirty(ctx) {
		t.Error("MarkDirty did nothing")
	}
	if r.must(r.repairer.markClean(ctx, r.repairer.marks()-1)); !r.IsDirty(ctx) {
		t.Error("a repair that began before MarkDirty took the mark away")
	}
	// Forget one block in the middle and its version.
	ids := r.rowsUnder("/s/l")
	_, id, _ := splitID(ids[len(ids)/2].Key)
	r.must(r.store.Delete(ctx, ds.RawKey(ids[len(ids)/2].Key)))
	r.must(r.store.Delete(ctx, r.Datastore.store.keys.block(id)))
	r.must(r.Repair(ctx))
	if ok, _ := r.IsProcessed(ctx, id.Cid()); !ok || r.IsDirty(ctx) {
		t.Error("the block was not merged again")
	}
	if got := r.InternalStats(ctx).Heads; fmt.Sprint(got) != fmt.Sprint(heads) {
		t.Errorf("heads before %v, after %v", heads, got)
	}
}

// A heedfulStore fails when the context has ended.
type heedfulStore struct{ ds.Batching }

func (s heedfulStore) Has(ctx context.Context, key ds.Key) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return s.Batching.Has(ctx, key)
}

// Whoever reads the log should not take a clean Close for a fault of the store.
func TestLookForDirtThatCloseCutsOffIsNoError(t *testing.T) {
	errors := &errorCount{}
	r := newTestNet().newReplicaOn(t, heedfulStore{newAtomicStore()}, countErrors(errors))
	closed, end := context.WithCancel(ctx)
	end()
	if r.repairer.isDirty(closed) || errors.Load() > 0 {
		t.Errorf("%d errors were logged", errors.Load())
	}
}
