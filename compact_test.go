package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

func (r *replica) compact() Compaction {
	r.t.Helper()
	done, err := r.Compact(ctx)
	r.must(err)
	return done
}

// heldPages returns what the held checkpoints of a replica have in its DAG service. One that
// is swept meanwhile has it begin anew.
func (r *replica) heldPages() (pages map[cid.Cid]bool) {
	r.t.Helper()
	waitFor(r.t, "the pages of all held checkpoints to be there", func() bool {
		pages = make(map[cid.Cid]bool)
		for _, cp := range r.frontier.checkpoints().held() {
			if r.checkpointer.eachPage(ctx, cp, func(n pageName) { pages[n.Cid()] = true }) != nil {
				return false
			}
		}
		return true
	})
	return pages
}

// checkDropped checks that a replica has just these blocks, and the pages of what it
// holds.
func (r *replica) checkDropped(blocks ...cid.Cid) {
	r.t.Helper()
	want := r.heldPages()
	for _, c := range blocks {
		want[c] = true
	}
	r.node.net.mu.Lock()
	defer r.node.net.mu.Unlock()
	for c := range r.node.blocks {
		if !want[c] {
			r.t.Errorf("%s is left", c)
		}
		delete(want, c)
	}
	for c := range want {
		r.t.Errorf("%s is gone", c)
	}
}

// overwrite writes some keys over and over, and deletes one now and then.
func (r *replica) overwrite(from, to int) {
	for i := from; i < to; i++ {
		r.put(fmt.Sprint("/", i%5), fmt.Sprint(i))
		if i%7 == 0 {
			r.del(fmt.Sprint("/", i%5))
		}
	}
}

func TestCompactWithoutACheckpoint(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.overwrite(0, 10)
	blocks := len(r.node.blocks)
	if done := r.compact(); done != (Compaction{}) || len(r.node.blocks) != blocks {
		t.Errorf("dropped %+v, and %d of %d blocks are left", done, len(r.node.blocks), blocks)
	}
}

func TestCompactDropsWhatIsCovered(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.overwrite(0, 2*maxGroupBlocks)
	c := r.checkpoint()
	covered, size := int(r.known(c).snapshot.blocks), int64(0)
	for _, b := range r.blocksBelow("", r.known(c).links) {
		size += int64(len(b.raw))
	}
	r.put("/new", "v")
	want := r.pairs()
	if done := r.compact(); done != (Compaction{Blocks: covered, Rows: covered, Bytes: size}) {
		t.Errorf("dropped %+v, want %d blocks of %d bytes", done, covered, size)
	}
	if done := r.compact(); done != (Compaction{}) {
		t.Errorf("dropped %+v once more", done)
	}
	r.checkDropped(c.Cid, r.head())
	if rows := r.rowsUnder("/b"); len(rows) != 2 {
		t.Errorf("%d marks are left", len(rows))
	}
	r.restart()
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("has %v, want %v", got, want)
	}
	r.overwrite(0, 20)
}

// Of two checkpoints, one below the other, the lower goes, but for what both have.
func TestCompactReleasesOlderCheckpoints(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.overwrite(0, 100)
	old := r.known(r.checkpoint()).segments[0]
	r.put("/new", "v")
	top := r.checkpoint()
	if now := r.known(top).segments; now[0] != old || len(now) < 2 {
		t.Fatalf("they do not share a segment: %v, %v", old, now)
	}
	r.compact()
	r.checkDropped(top.Cid)
	if n := len(r.frontier.checkpoints()); n != 1 {
		t.Errorf("%d checkpoints are known", n)
	}
	if rows := r.rowsUnder("/w"); len(rows) == 0 {
		t.Error("nothing is known of the checkpoint")
	}
}

// A page that is lost keeps nothing from being dropped, now or later.
func TestCompactPassesOverALostPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = time.Hour })
		r.overwrite(0, 20)
		old := r.known(r.checkpoint()).snapshot
		r.overwrite(20, 40)
		r.checkpoint()
		r.must(r.Datastore.blocks.removePage(ctx, pageName{id: old.versions}))
		begun := time.Now()
		r.compact()
		if n, took := len(r.frontier.checkpoints()), time.Since(begun); n != 1 || took > 3*pagePatience {
			t.Errorf("%d checkpoints are known after %s", n, took)
		}
		if done := r.compact(); done != (Compaction{}) {
			t.Errorf("dropped %+v once more", done)
		}
	})
}

// Someone may still have a block that was dropped here, and not what is below it. What is
// folded of it would lack that.
func TestFoldFindsThatBlocksWereDropped(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.DAGSyncerTimeout = 10 * time.Millisecond })
	r.put("/a", "1")
	r.put("/b", "1")
	top := r.head()
	raw := r.node.blocks[top]
	r.checkpoint()
	r.put("/c", "1")
	r.checkpoint()
	r.compact()
	r.node.blocks[top] = raw
	id, err := blockIDOf(top)
	r.must(err)
	if f, err := r.checkpointer.fold(ctx, "", []blockID{id}, noPages{}); !errors.Is(err, errCannotFold) {
		t.Errorf("%+v, %v", f, err)
	}
}

// Of a checkpoint beside one below which all has been dropped, a fold would have to fetch
// the history again, and to wait for what is nowhere.
func TestFoldDoesNotAskForWhatWasDropped(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t, walkHistory)
	watched := &watchedDAG{testNode: a.node, got: make(map[cid.Cid]bool)}
	a.reopenWith(watched, nil)
	var dropped []cid.Cid
	for i := range 9 {
		a.put(fmt.Sprint("/a", i), "1")
		dropped = append(dropped, a.head())
	}
	converge(t, a, b)
	net.split(0, 1)
	b.put("/b", "1")
	beside := b.checkpoint()
	a.put("/a", "2")
	a.checkpoint()
	a.compact()
	watched.forget()
	net.heal()
	waitFor(t, "the block below to be merged", func() bool { return a.state(beside.Cid) == complete })
	if _, err := a.checkpointer.fold(ctx, "", a.known(beside).links, noPages{}); !errors.Is(err, errIsDropped) {
		t.Error(err)
	}
	if got := a.known(a.checkpoint()).snapshot; got.blocks != 13 { // one above both can be made
		t.Errorf("it is of %d blocks", got.blocks)
	}
	for _, c := range dropped {
		if watched.wasAskedFor(c) {
			t.Errorf("%s was asked for", c)
		}
	}
}

// What a Delete uncovers may have stood in a block that is gone.
func TestKeptValuesAreUncovered(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/k", "loser")
	b.put("/other", "v")
	b.put("/k", "winner")
	b.put("/k", "middle") // a loser once it is overwritten
	b.put("/k", "winner")
	net.heal()
	converge(t, a, b)
	c := a.snapshot("").publish(t, a.node) // all losers are in it
	a.node.deliver(announcement(c))
	a.awaitCheckpoint(c, checkpointHeld)
	if done := a.compact(); done.Blocks != 5 {
		t.Errorf("dropped %+v", done)
	}
	a.reopenWith(localDAG{a.node}, nil) // the other one has the blocks still
	for _, left := range []string{"winner", "middle", "winner", "loser"} {
		if got := a.get("/k"); got != left {
			t.Fatalf("Get: %q, want %q", got, left)
		}
		a.removeWinner("/k")
	}
	if got := a.get("/k"); got != "(none)" {
		t.Errorf("Get: %q after all versions were removed", got)
	}
}

// removeWinner publishes a tombstone of the winner alone.
func (r *replica) removeWinner(key string) {
	r.t.Helper()
	r.must(r.tryRemoveWinner(key))
}

func (r *replica) tryRemoveWinner(key string) error {
	k, err := r.Datastore.store.loadKey(ctx, key)
	if err != nil {
		return err
	}
	d := newPBDelta()
	d.SetTombstones(tombstonesFor(key, []blockID{k.win.id}))
	_, err = r.Publish(ctx, d)
	return err
}

// Blocks that are lost go as well: the checkpoint has their values.
func TestCompactDropsLostBlocks(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "loser")
	lost := r.head()
	r.put("/k", "winner")
	r.put("/c", "3")
	c := r.untidyCheckpoint()
	r.reopenWith(localDAG{r.node}, nil)
	r.must(r.node.Remove(ctx, lost))
	if done := r.compact(); done.Rows != 3 {
		t.Errorf("Compact: %+v", done)
	}
	r.checkDropped(c.Cid)
	r.removeWinner("/k")
	if got := r.get("/k"); got != "loser" {
		t.Errorf("Get: %q", got)
	}
}

// Of blocks that are lost none takes long: what they gave to keys is in the snapshot.
func TestCompactOfAnOldCopyOfTheDatastore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 5 * time.Minute })
		r.overwrite(0, 60)
		r.checkpoint()
		for _, b := range r.blocksBelow("", r.checkpointer.headsToFold("").ids()) {
			if len(b.links) > 0 && b.delta.snapshot == nil {
				r.must(r.node.Remove(ctx, b.id.Cid()))
			}
		}
		want, begun := r.pairs(), time.Now()
		r.compact()
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("it took %s", took)
		}
		if got := r.pairs(); !maps.Equal(got, want) {
			t.Errorf("has %v, want %v", got, want)
		}
	})
}

// Wherever a replica dies amid Compact, the next run goes on, and nothing is lost.
func TestCompactThatWasCutOff(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for at := range 60 {
			if !cutOffCompact(t, at, plain) {
				break
			}
		}
	}
}

// wrapPlain has a store fail between the rows of a commit.
func wrapPlain(store *faultyStore, plain bool) ds.Datastore {
	if plain {
		return plainStore{store}
	}
	return store
}

// cutOffCompact reports whether Compact was cut off.
func cutOffCompact(t *testing.T, at int, plain bool) bool {
	faulty := newFaultyStore()
	r := newTestNet().newReplicaOn(t, wrapPlain(faulty, plain), silent)
	r.overwrite(0, 12)
	r.checkpoint()
	r.overwrite(12, 18)
	c := r.checkpoint()
	want := r.pairs()
	faulty.dieAfter(at)
	_, err := r.Compact(ctx)
	_ = r.Close()
	faulty.heal()
	r.open()
	waitFor(t, "the drop to be finished", func() bool { return len(r.rowsUnder("/w/dropping"))+len(r.rowsUnder("/w/d")) == 0 })
	r.compact()
	r.checkDropped(c.Cid)
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("killed at write %d: has %v, want %v", at, got, want)
	}
	if marks := r.rowsUnder("/b"); len(marks) != 1 {
		t.Errorf("killed at write %d: %d marks are left", at, len(marks))
	}
	return err != nil
}

// A gatedDAG lets the first request for a block wait.
type gatedDAG struct {
	ipld.DAGService
	of      cid.Cid
	waiting atomic.Bool
	open    chan struct{}
}

func (d *gatedDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if c == d.of && d.waiting.CompareAndSwap(false, true) {
		<-d.open
	}
	return d.DAGService.Get(ctx, c)
}

// A block stays as long as somebody is about to read a value from it, that found none in
// the store before it was kept.
func TestCompactWaitsForReadersOfValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t)
		r.put("/k", "old")
		old := r.head()
		r.put("/k", "new")
		r.untidyCheckpoint() // or it would remove the old one
		gate := &gatedDAG{DAGService: r.node, of: old, open: make(chan struct{})}
		r.reopenWith(gate, nil)
		removed := make(chan error)
		go func() { removed <- r.tryRemoveWinner("/k") }()
		synctest.Wait() // it reads the old value
		compacted := make(chan error)
		go func() { _, err := r.Compact(ctx); compacted <- err }()
		synctest.Wait()
		close(gate.open)
		r.must(errors.Join(<-removed, <-compacted))
		if got := r.get("/k"); got != "old" {
			t.Errorf("Get: %q", got)
		}
	})
}

// A newcomer has nothing but what a replica serves that has dropped the rest.
func TestNewcomerAfterCompact(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) { o.SupersedingPuts = true })
	r.overwrite(0, 100)
	r.checkpoint()
	r.compact()
	r.overwrite(100, 110)
	newcomer := net.newReplica(t)
	if got := converge(t, r, newcomer); len(got) == 0 {
		t.Error("it has nothing")
	}
	newcomer.put("/0", "new")
	newcomer.del("/1")
	converge(t, r, newcomer)
}

// A key that is overwritten for ever takes no more room.
func TestOverwritingForEverIsFlat(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.SupersedingPuts = true })
	var rows, blocks [10]int
	for i := range rows {
		r.overwrite(40*i, 40*(i+1))
		r.checkpoint()
		r.compact()
		rows[i], blocks[i] = len(r.rowsUnder("")), r.countBlocks()
	}
	if rows[9] > rows[1]+5 || blocks[9] > blocks[1]+5 {
		t.Errorf("rows %d, blocks %d", rows, blocks)
	}
}

// A covered version has its value in the record as long as it wins. It may come to lose
// before its block is dropped, or after that.
func TestCoveredWinnerThatLosesKeepsItsValue(t *testing.T) {
	for _, dropped := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			net := newTestNet()
			r, other := net.newReplica(t), net.newReplica(t)
			r.put("/k", "old")
			converge(t, r, other)
			r.checkpoint()
			if dropped {
				r.compact()
			}
			if restart {
				r.reopenWith(r.node, nil)
			}
			other.put("/k", "new")
			converge(t, r, other)
			if r.compact(); r.get("/k") != "new" {
				t.Errorf("/k is %s", r.get("/k"))
			}
			r.reopenWith(localDAG{r.node}, nil)
			r.removeWinner("/k")
			if got := r.get("/k"); got != "old" {
				t.Errorf("dropped before it lost: %t, restart: %t: /k is %s", dropped, restart, got)
			}
		}
	}
}

// A syncStore fails one Sync, and knows what the last one has made durable.
type syncStore struct {
	ds.Batching
	t *testing.T

	mu     sync.Mutex
	failIn int // Syncs until one fails; negative: none does
	synced map[string]string
}

func (s *syncStore) setFailIn(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failIn = n
}

func (s *syncStore) Sync(ctx context.Context, k ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failIn--; s.failIn == -1 {
		return errFault
	}
	s.synced = dump(s.t, s.Batching)
	return s.Batching.Sync(ctx, k)
}

// A durableDAG checks that what is removed from it is not needed after a power cut.
type durableDAG struct {
	ipld.DAGService
	store *syncStore
}

func (d *durableDAG) Remove(ctx context.Context, c cid.Cid) error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if now := dump(d.store.t, d.store.Batching); !maps.Equal(now, d.store.synced) {
		d.store.t.Errorf("%s is removed before a Sync\n%s", c, diff(now, d.store.synced))
	}
	return d.DAGService.Remove(ctx, c)
}

// Nothing is removed from the DAG service that a power cut would make the store count on,
// also when a Sync fails, and what it was for is done later.
func TestCompactSyncsBeforeItRemoves(t *testing.T) {
	for failIn := range 3 {
		for _, restart := range []bool{false, true} {
			store := &syncStore{Batching: newAtomicStore(), t: t, failIn: -1}
			r := newTestNet().newReplicaOn(t, store, silent)
			r.put("/a", "v")
			r.checkpoint()
			r.put("/k", "v")
			c := r.checkpoint()
			dag := &durableDAG{r.node, store}
			r.reopenWith(dag, nil)
			store.setFailIn(failIn)
			if _, err := r.Compact(ctx); errors.Is(err, errFault) != (failIn < 2) {
				t.Fatalf("Sync %d: %v", failIn, err)
			}
			store.setFailIn(-1)
			if restart {
				r.reopenWith(dag, nil)
			}
			r.compact()
			r.checkDropped(c.Cid)
		}
	}
}

// A block stays as long as the merger is about to read a value from it, too: nothing says how
// long a request takes for what is nowhere.
func TestCompactWaitsForTheMerger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 0 })
		r.put("/k", "old")
		old := r.head()
		r.put("/k", "new")
		winner := r.head()
		r.untidyCheckpoint() // or it would remove the old one
		gate := &gatedDAG{DAGService: r.node, of: old, open: make(chan struct{})}
		r.reopenWith(gate, nil)
		c := r.offer(net.node(), &pb.Delta{Priority: 10, Tombstones: []*pb.Element{tombstoneOf(t, "/k", winner)}})
		synctest.Wait() // it reads the old value
		if !gate.waiting.Load() {
			t.Fatal("nobody reads")
		}
		compacted := make(chan error)
		go func() { _, err := r.Compact(ctx); compacted <- err }()
		synctest.Wait()
		close(gate.open)
		r.must(<-compacted)
		time.Sleep(time.Hour)
		if s := r.state(c); s != complete {
			t.Errorf("the block is %d after an hour", s)
		}
		if got := r.get("/k"); got != "old" {
			t.Errorf("Get: %q", got)
		}
	})
}

// Datastores of different topics may share a DAG service. The page of an empty snapshot is the
// same for all.
func TestCompactLeavesTheEmptyPageOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dag := newTestNet().node()
		var sharing []*replica
		for range 2 {
			r := newTestNet().newReplica(t)
			r.node.net.mu.Lock()
			r.node.blocks = dag.blocks
			r.node.net.mu.Unlock()
			r.put("/k", "v")
			r.del("/k")
			r.checkpoint()
			r.compact()
			sharing = append(sharing, r)
		}
		for _, r := range sharing {
			r.put("/k", "v")
			r.checkpoint() // rests on the empty one
			r.compact()
		}
	})
}

// A slowDAG keeps the answers back to its first requests for some blocks.
type slowDAG struct {
	ipld.DAGService
	of    map[cid.Cid]bool
	first atomic.Int64 // so many of these
	open  chan struct{}
}

func (d *slowDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	nd, err := d.DAGService.Get(ctx, c)
	if d.of[c] && d.first.Add(-1) >= 0 {
		<-d.open
	}
	return nd, err
}

// What is dropped while a repair has still to read it is nowhere.
func TestRepairBesideADrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) {
			o.DAGSyncerTimeout, o.RepairInterval, o.RebroadcastInterval = time.Hour, 0, 24*time.Hour
		})
		liar := net.node()
		var roots []cid.Cid
		for i := range 4 * fetchesPerWorker {
			roots = append(roots, r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement(fmt.Sprint("/", i))}))
		}
		for _, c := range roots {
			r.awaitMerged(c)
		}
		r.put("/top", "v") // on all of them
		dag := &slowDAG{DAGService: r.node, of: make(map[cid.Cid]bool), open: make(chan struct{})}
		for _, c := range roots {
			dag.of[c] = true
		}
		r.reopenWith(dag, nil)
		synctest.Wait()
		dag.first.Store(fetchesPerWorker)
		r.MarkDirty(ctx)
		begun, repaired := time.Now(), make(chan error)
		go func() { repaired <- r.Repair(ctx) }()
		synctest.Wait() // it has read some, and has still to read the others
		r.checkpoint()
		r.compact()
		liar.away(true)
		close(dag.open)
		r.must(<-repaired)
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}
