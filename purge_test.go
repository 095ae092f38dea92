package crdt

import (
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// What a purged block missed may come after all. The block is gone, so it must
// not become a head.
func TestPurgedRootNeverBecomesAHead(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	late := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "x", Elements: oneElement("/late")}))
	show := liar.hide(t, late)
	middle := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/middle")}), late)
	top := r.offer(liar, &pb.Delta{Priority: 3, DagName: "x", Elements: oneElement("/top")}, middle)
	r.awaitMerged(middle)
	r.opts.DAGSyncerTimeout = patience // the late block is asked for
	r.restart()
	if n, err := r.PurgeDAG(ctx, "x"); n != 2 || err != nil {
		t.Fatalf("PurgeDAG: %d, %v", n, err)
	}
	r.must(r.node.Remove(ctx, top))
	r.must(liar.Remove(ctx, top))

	show()
	r.awaitMerged(late)
	waitFor(t, "the purged block to be complete", func() bool { return r.state(top) == complete })
	if heads, _, err := r.Heads().List(ctx); len(heads) > 0 || err != nil {
		t.Errorf("heads after the purge: %v, %v", heads, err)
	}
	if got := r.pairs(); len(got) != 3 {
		t.Errorf("pairs: %v", got)
	}
}

// A value whose block was purged, before it was overwritten or afterwards, comes
// back when what overwrote it is removed.
func TestPurgedValueIsUncovered(t *testing.T) {
	for _, purgeFirst := range []bool{true, false} {
		net := newTestNet()
		a, b := net.newReplica(t), net.newReplica(t)
		net.split(0, 1)
		d, err := a.Set().Add(ctx, "/k", []byte("purged"))
		a.must(err)
		d.SetDagName("x")
		_, err = a.Publish(ctx, d)
		a.must(err)
		if !purgeFirst {
			a.put("/k", "over it")
		}
		if n, err := a.PurgeDAG(ctx, "x"); n != 1 || err != nil {
			t.Fatalf("PurgeDAG: %d, %v", n, err)
		}
		if purgeFirst {
			a.put("/k", "over it")
		}
		net.heal()
		waitFor(t, "the pair", func() bool { return b.get("/k") == "over it" })
		b.del("/k") // b has never seen the purged version
		b.put("/other", "v")
		waitFor(t, "the older value", func() bool { return a.get("/k") == "purged" && a.get("/other") == "v" })
	}
}

func TestPurgedBlockBelowAStrandedOneNeverBecomesAHead(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	late := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "x", Elements: oneElement("/late")}))
	showLate := liar.hide(t, late)
	bad := liar.forge(t, []byte("no delta"))
	showBad := liar.hide(t, bad)
	middle := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/middle")}), late)
	top := r.offer(liar, &pb.Delta{Priority: 3, DagName: "x", Elements: oneElement("/top")}, middle, bad)
	r.awaitMerged(middle)
	r.opts.DAGSyncerTimeout = patience
	r.restart()
	if n, err := r.PurgeDAG(ctx, "x"); n != 2 || err != nil {
		t.Fatalf("PurgeDAG: %d, %v", n, err)
	}
	for _, c := range []cid.Cid{top, middle} {
		r.must(r.node.Remove(ctx, c))
		r.must(liar.Remove(ctx, c))
	}
	showBad()
	waitFor(t, "the bad block", func() bool { return r.state(bad) == refused })
	showLate()
	r.awaitMerged(late)
	waitFor(t, "the middle block", func() bool { return r.state(middle) == complete })
	if heads, _, err := r.Heads().List(ctx); len(heads) > 0 || err != nil {
		t.Errorf("heads after the purge: %v, %v; middle is %s", heads, err, middle)
	}
}
