package crdt

import (
	"fmt"
	"testing"
	"testing/synctest"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	dag "github.com/ipfs/go-merkledag"
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
// roots. With many links that takes several commits, and a replica that is killed
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
	if roots := r.rowsUnder("/r"); len(roots) != 2 {
		t.Errorf("%d roots, want those 2 that the top covered", len(roots))
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
	waitFor(t, "the pending block to be a root", func() bool {
		_, roots := r.frontier.get()
		return roots[id].Height == 50
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
	waitFor(t, "the root to be dropped", func() bool {
		_, roots := r.frontier.get()
		ok, _ := r.IsProcessed(ctx, middle)
		return ok && len(roots) == 0 && len(r.rowsUnder("/q"))+len(r.rowsUnder("/p")) == 0
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
	nd := dag.NodeWithData(base)
	nd.SetCidBuilder(blockPrefix)
	var tops []cid.Cid
	for i := range fan {
		tops = append(tops, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement(fmt.Sprintf("/%d", i))}), nd.Cid()))
	}
	for i := 0; i < fan; i += 500 {
		n := min(i+500, fan)
		a.node.deliver(announcement(tops[i:n]...))
		waitFor(t, "the fan", func() bool { _, roots := a.frontier.get(); return len(roots) == n })
	}
	if err := liar.Add(ctx, nd); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all to be heads", func() bool { heads, roots := a.frontier.get(); return len(heads) == fan && len(roots) == 0 })
	waitFor(t, "all to be told", func() bool { return len(a.rowsUnder("/q")) == 0 })
	a.put("/join", "v")
	if heads := a.InternalStats(ctx).Heads; len(heads) != 1 {
		t.Errorf("%d heads after a write", len(heads))
	}
}
