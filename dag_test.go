package crdt

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	merkledag "github.com/ipfs/go-merkledag"
)

// A block that comes costs each block that waits for it a small row, however many
// others these wait for.
func TestChildCostsItsParentsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		store := newFaultyStore()
		r := net.newReplicaOn(t, store, silent)
		liar := net.node()
		child := liar.forgePriority(t, 1)
		show := liar.hide(t, child)
		const parents = 5
		for i := range parents {
			r.awaitMerged(r.offer(liar, &pb.Delta{Priority: uint64(2 + i)}, append(unavailables(3000), child)...))
		}
		synctest.Wait()
		store.maxBytes.Store(0)
		show()
		r.awaitMerged(child)
		synctest.Wait()
		if n := store.maxBytes.Load(); n > parents*100 {
			t.Errorf("a child of %d parents had a commit of %d bytes written", parents, n)
		}
	})
}

// A store of an earlier build has all links of a block in its mark.
func TestMarkWithManyLinksInIt(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	var children []cid.Cid
	for i := range 3 * fewLinks {
		children = append(children, liar.forgePriority(t, uint64(1+i)))
	}
	show := liar.hide(t, children...)
	top := r.offer(liar, &pb.Delta{Priority: 1000, Elements: oneElement("/top")}, children...)
	r.awaitMerged(top)
	r.must(r.Close())
	id, err := blockIDOf(top)
	r.must(err)
	keys := r.Datastore.store.keys
	mark, err := r.store.Get(ctx, keys.block(id))
	r.must(err)
	links, err := r.store.Get(ctx, keys.links(id))
	r.must(err)
	r.must(r.store.Put(ctx, keys.block(id), append(mark, links...)))
	r.must(r.store.Delete(ctx, keys.links(id)))
	r.open()
	show()
	waitFor(t, "the only head", func() bool { heads := r.InternalStats(ctx).Heads; return len(heads) == 1 && heads[0].Cid == top })
}

// When a block turns out to be above a refused one, what is pending below becomes
// pending heads. With many links that takes several commits, and a replica that is killed
// goes on with it.
func TestUncoveringIsSplitIntoCommits(t *testing.T) {
	for n := range 24 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { uncoverAndDie(t, n) })
		})
	}
}

func uncoverAndDie(t *testing.T, writes int) {
	const links, spread = 400, 40
	net := newTestNet()
	store := newFaultyStore()
	r := net.newReplicaOn(t, store, silent)
	r.limitCommits(spread, maxValueBytes)
	liar := net.node()
	deep := liar.forgePriority(t, 1)
	showDeep := liar.hide(t, deep)
	bad := liar.forge(t, []byte("no delta"))
	showBad := liar.hide(t, bad)
	below := append([]cid.Cid{liar.forgePriority(t, 2, deep)}, unavailables(links)...)
	below = append(below, liar.forgePriority(t, 3, deep), bad)
	top := r.offer(liar, &pb.Delta{Priority: 4, Elements: oneElement("/top")}, below...)
	r.awaitMerged(below[0])
	r.awaitMerged(below[links+1])
	synctest.Wait()

	store.maxReads.Store(0)
	store.dieAfter(writes)
	showBad()
	synctest.Wait()
	if store.hasDied() {
		_ = r.Close() // cannot write any more
		store.heal()
		r.open()
		r.limitCommits(spread, maxValueBytes)
	} else if most := store.maxReads.Load(); most > 3*spread {
		t.Errorf("a commit had %d rows read", most)
	}
	store.heal()
	waitFor(t, "the top to be stranded", func() bool { return r.state(top) == stranded })
	if pendingHeads := r.rowsUnder("/r"); len(pendingHeads) != 2 {
		t.Errorf("%d pending heads, want those 2 that the top covered", len(pendingHeads))
	}
	showDeep()
	waitFor(t, "heads", func() bool { n, _ := r.Heads().Len(ctx); return n == 2 })
	id, err := blockIDOf(top)
	r.must(err)
	if found, err := r.store.Has(ctx, r.Datastore.store.keys.links(id)); found || err != nil {
		t.Errorf("the links of the top are left: %v", err)
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
	waitFor(t, "the pending block to be a pending head", func() bool {
		_, pendingHeads := r.frontier.tips()
		return pendingHeads[id].Height == 50
	})
	r.put("/k", "mine")
	if got := r.get("/k"); got != "mine" {
		t.Errorf("/k is %q after a Put", got)
	}
}

func TestBlockAboveARefusedOneNeverBecomesAHead(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.put("/k", "v")
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{DagName: "..", Elements: oneElement("/bad")}))
	middle := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 8, Elements: oneElement("/middle")}), bad)
	top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 9, Elements: oneElement("/top")}), middle)
	r.node.deliver(announcement(top))
	waitFor(t, "the pending head to be dropped", func() bool {
		_, pendingHeads := r.frontier.tips()
		ok, _ := r.IsProcessed(ctx, middle)
		return ok && len(pendingHeads) == 0 && len(r.rowsUnder("/q"))+len(r.rowsUnder("/p")) == 0
	})
	if heads := r.InternalStats(ctx).Heads; len(heads) != 1 || heads[0].Height != 1 {
		t.Errorf("heads are %v", heads)
	}
	if r.get("/bad") != "(none)" {
		t.Error("the refused delta was merged")
	}
}

func TestLongCascadeIsSplitIntoCommits(t *testing.T) {
	if testing.Short() {
		t.Skip("merges many blocks")
	}
	net := newTestNet()
	a := net.newReplicaOn(t, newBadger(t))
	liar := net.node()
	// Many blocks wait for one: a fan, which is too wide for one commit.
	const fan = maxSpread/2 + 100
	base := marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/base")})
	nd := merkledag.NodeWithData(base)
	nd.SetCidBuilder(blockPrefix)
	var tops []cid.Cid
	for i := range fan {
		tops = append(tops, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement(fmt.Sprintf("/%d", i))}), nd.Cid()))
	}
	for i := 0; i < fan; i += 500 {
		n := min(i+500, fan)
		a.node.deliver(announcement(tops[i:n]...))
		waitFor(t, "the fan", func() bool { _, pendingHeads := a.frontier.tips(); return len(pendingHeads) == n })
	}
	if err := liar.Add(ctx, nd); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all to be heads", func() bool {
		heads, pendingHeads := a.frontier.tips()
		return len(heads) == fan && len(pendingHeads) == 0
	})
	waitFor(t, "all to be told", func() bool { return len(a.rowsUnder("/q")) == 0 })
	a.put("/join", "v")
	if heads := a.InternalStats(ctx).Heads; len(heads) != 1 {
		t.Errorf("%d heads after a write", len(heads))
	}
}

// A fan is a missing block, for which several wait, and for each of these as many.
type fan struct {
	*replica
	liar  *testNode
	base  cid.Cid
	width int
	show  func() // lets the replica have the base
}

// cascadeDAG is the DAG of the base of a fan.
const cascadeDAG = "base"

func baseDelta() *pb.Delta {
	return &pb.Delta{Priority: 1, DagName: cascadeDAG, Elements: oneElement("/base")}
}

// newFan has a replica merge all but the base. One of its commits tells one parent.
func newFan(r *replica, width int) *fan {
	r.limitCommits(1, maxValueBytes)
	f := &fan{replica: r, liar: r.node.net.node(), width: width}
	f.base = f.liar.forge(r.t, marshalDelta(r.t, baseDelta()))
	f.show = f.liar.hide(r.t, f.base)
	key := 0
	offer := func(priority uint64, below cid.Cid) cid.Cid {
		key++
		return r.offer(f.liar, &pb.Delta{Priority: priority, Elements: oneElement(fmt.Sprint("/", key))}, below)
	}
	for range width {
		middle := offer(2, f.base)
		for range width {
			offer(3, middle)
		}
	}
	waitFor(r.t, "the fan", func() bool { return len(r.rowsUnder("/b")) == width+width*width })
	return f
}

func (f *fan) requests() int {
	f.node.net.mu.Lock()
	defer f.node.net.mu.Unlock()
	return f.node.requests
}

// check checks that all have been told.
func (f *fan) check() {
	f.t.Helper()
	heads, pendingHeads := f.frontier.tips()
	if len(heads) != f.width*f.width+1 || len(pendingHeads) > 0 {
		f.t.Errorf("%d heads and %d pending heads", len(heads), len(pendingHeads))
	}
	for _, prefix := range []string{"/q", "/p"} {
		if rows := f.rowsUnder(prefix); len(rows) > 0 {
			f.t.Errorf("%d rows are left under %s", len(rows), prefix)
		}
	}
}

// A commit tells few parents at a time. The rest follows, and no block is fetched for
// that.
func TestCascadeGoesOnByItself(t *testing.T) {
	for _, width := range []int{3, 12} { // the blocks to go on with are kept in mind, or are too many for that
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFaultyStore()
				f := newFan(newTestNet().newReplicaOn(t, store), width)
				before := f.requests()
				store.maxRows.Store(0)
				f.show()
				synctest.Wait()
				f.check()
				if n := f.requests() - before; n > 1 { // or two, if it was asked for before it could be had
					t.Errorf("%d blocks were asked for", n)
				}
				if n := store.maxRows.Load(); n > 30 {
					t.Errorf("a commit had %d rows", n)
				}
			})
		})
	}
}

// A replica that is killed goes on after the restart, also when the block that began it
// is nowhere any more.
func TestKilledInACascade(t *testing.T) {
	for n := range 60 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { cascadeAndDie(t, 3*n) })
		})
	}
}

func cascadeAndDie(t *testing.T, writes int) {
	store := newFaultyStore()
	f := newFan(newTestNet().newReplicaOn(t, store, silent), 10)
	store.dieAfter(writes)
	f.show()
	synctest.Wait()
	_ = f.Close() // cannot write any more
	store.heal()
	if f.state(f.base).merged() {
		defer f.node.hide(t, f.base)()
		defer f.liar.hide(t, f.base)()
	}
	f.open()
	f.limitCommits(1, maxValueBytes)
	synctest.Wait()
	f.check()
}

// A cascade and small updates take turns, however many there are of either.
func TestCascadeBesideUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const commit = 10 * time.Millisecond
		net := newTestNet()
		begun, ended := make(chan time.Time, 100_000), make(chan time.Time, 100_000)
		hook := func(o *Options) {
			o.PutHook = func(k ds.Key, _ []byte) {
				if ds.NewKey("/live").IsAncestorOf(k) {
					ended <- time.Now()
				}
			}
		}
		f := newFan(net.newReplicaOn(t, slowStore{newAtomicStore(), commit}, hook), 8)
		writer := net.newReplica(t)
		f.show()
		started := time.Now()
		for i := 0; ; i++ { // more come than are merged one by one
			if _, pendingHeads := f.frontier.tips(); len(pendingHeads) == 0 {
				break
			}
			begun <- time.Now()
			writer.put(fmt.Sprint("/live/", i), "v")
			time.Sleep(commit / 10)
		}
		if took, most := time.Since(started), 10*time.Duration(f.width+f.width*f.width)*commit; took > most {
			t.Errorf("the cascade took %s, and may take %s", took, most)
		}
		for i := range len(begun) {
			if took := (<-ended).Sub(<-begun); took > 5*commit {
				t.Fatalf("update %d took %s, and a commit %s", i, took, commit)
			}
		}
	})
}

// slowStore takes its time for each commit.
type slowStore struct {
	ds.Batching
	pause time.Duration
}

func (s slowStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return slowBatch{b, s.pause}, err
}

type slowBatch struct {
	ds.Batch
	pause time.Duration
}

func (b slowBatch) Commit(ctx context.Context) error {
	time.Sleep(b.pause)
	return b.Batch.Commit(ctx)
}

// Whoever commits leaves the rest to the merger.
func TestCascadeAfterAPublishedBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFan(newTestNet().newReplica(t), 5)
		d := newPBDelta()
		d.SetElements(baseDelta().Elements)
		d.SetDagName(cascadeDAG)
		h, err := f.Publish(ctx, &untagged{d})
		if err != nil || h.Cid != f.base {
			t.Fatalf("published %s, want %s: %v", h, f.base, err)
		}
		synctest.Wait()
		f.check()
	})
}

// What waits for a block that is being purged is not told of it, and waits for it anew.
func TestCascadeAndPurge(t *testing.T) {
	const commit = 10 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		f := newFan(newTestNet().newReplicaOn(t, slowStore{newAtomicStore(), commit}), 5)
		f.show()
		time.Sleep(6 * commit)
		f.purgeDAG(cascadeDAG, 1)
		if _, pendingHeads := f.frontier.tips(); len(pendingHeads) == 0 {
			t.Error("the cascade had ended before the purge")
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		f.check()
	})
}

// If the purge fails, it goes on, and meanwhile it rests.
func TestCascadeAndPurgeThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaultyStore()
		f := newFan(newTestNet().newReplicaOn(t, store), 5)
		id, err := blockIDOf(f.base)
		f.must(err)
		p := &purge{committer: f.committer, fetcher: f.fetcher, hidden: map[blockID]bool{id: true}}
		hide := func(p *purge) {
			f.must(f.committer.acquire(ctx))
			defer f.committer.release()
			f.committer.purge = p
		}
		f.must(f.committer.acquire(ctx))
		f.show()
		synctest.Wait() // the block is with the merger
		f.committer.release()
		waitFor(t, "the cascade", func() bool { return f.state(f.base) == complete })
		hide(p)
		synctest.Wait()
		writes := store.writes.Load()
		time.Sleep(time.Second)
		if n := store.writes.Load() - writes; n > 0 {
			t.Errorf("%d rows were written meanwhile", n)
		}
		p.hidden = nil
		p.end(ctx)
		synctest.Wait()
		f.check()
	})
}

// An earlier build left queue rows of blocks that had been merged in the meantime.
func TestQueueRowOfAMergedBlock(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	c := r.head()
	id, err := blockIDOf(c)
	r.must(err)
	r.must(r.Close())
	r.must(r.store.Put(ctx, r.Datastore.store.keys.queued(id), (&wanted{height: 1}).encode()))
	r.open()
	waitFor(t, "the row to go", func() bool { return len(r.rowsUnder("/q")) == 0 })
	if h := r.head(); h != c {
		t.Errorf("the head is %s", h)
	}
}
