package crdt

import (
	"fmt"
	"maps"
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// removeIn publishes tombstones of all versions of a key in a named DAG.
func (r *replica) removeIn(dag, key string) Head {
	r.t.Helper()
	d, err := r.Set().Rmv(ctx, key)
	r.must(err)
	d.SetDagName(dag)
	h, err := r.Publish(ctx, d)
	r.must(err)
	return h
}

// compactDAG has a replica hold a checkpoint of a DAG, and drop all below it.
func (r *replica) compactDAG(dag string) Head {
	r.t.Helper()
	h := r.checkpointIn(dag)
	_, err := r.CompactDAG(ctx, dag)
	r.must(err)
	return h
}

// checkpointIn makes a checkpoint of a named DAG.
func (r *replica) checkpointIn(dag string) Head {
	r.t.Helper()
	h, err := r.CheckpointDAG(ctx, dag)
	r.must(err)
	return h
}

// checkPurged checks that nothing is left but what the unnamed DAG has.
func (r *replica) checkPurged() {
	r.t.Helper()
	heads, _ := r.frontier.tips()
	blocks := r.blocksBelow("", heads.of(""))
	r.node.net.mu.Lock()
	for c := range r.node.blocks {
		if id, err := blockIDOf(c); err != nil || blocks[id] == nil {
			r.t.Errorf("block %s is left", c)
		}
	}
	r.node.net.mu.Unlock()
	for _, prefix := range []string{"/a", "/q", "/p", "/r", "/w", "/s/l"} {
		if rows := r.rowsUnder(prefix); len(rows) > 0 {
			r.t.Errorf("%d rows are left under %s, such as %s", len(rows), prefix, rows[0].Key)
		}
	}
	if rows := r.rowsUnder("/b"); len(rows) != len(blocks) {
		r.t.Errorf("%d marks are left, want %d", len(rows), len(blocks))
	}
}

// A DAG of which most was dropped is forgotten as a whole, and can be merged again.
func TestPurgeOfADroppedDAG(t *testing.T) {
	net := newTestNet()
	r, keeper := net.newReplica(t), net.newReplica(t)
	var merged []cid.Cid
	for i := range 30 {
		merged = append(merged, r.publishIn("x", fmt.Sprint("/", i%7), fmt.Sprint(i)).Cid)
		if i%5 == 0 {
			merged = append(merged, r.removeIn("x", fmt.Sprint("/", i%7)).Cid)
		}
	}
	r.put("/main", "v")
	converge(t, r, keeper)
	net.split(0, 1)
	merged = append(merged, r.compactDAG("x").Cid)
	merged = append(merged, r.publishIn("x", "/fresh", "v").Cid)
	r.purgeDAG("x", 2)
	if got := fmt.Sprint(r.pairs()); got != "map[/main:v]" {
		t.Errorf("has %s", got)
	}
	for _, c := range merged {
		if ok, err := r.IsProcessed(ctx, c); ok || err != nil {
			t.Errorf("IsProcessed: %v, %v", ok, err)
		}
	}
	r.checkPurged()
	r.purgeDAG("x", 0)
	net.heal()
	if got := converge(t, keeper, r); len(got) != 7 {
		t.Errorf("has %v", got)
	}
}

// What another DAG has removed stays removed when a purged DAG comes again: whether that
// itself had removed it too, and whether the tombstones are in blocks that are here.
func TestPurgeOfADroppedDAGKeepsRemovedWhatOthersRemoved(t *testing.T) {
	for _, dropOther := range []bool{false, true} {
		net := newTestNet()
		r, keeper := net.newReplica(t), net.newReplica(t)
		first := r.publishIn("x", "/alive", "v")
		r.publishIn("x", "/byOther", "v")
		r.publishIn("x", "/byBoth", "v")
		r.removeIn("y", "/byOther")
		both, err := r.Set().Rmv(ctx, "/byBoth")
		r.must(err)
		for _, dag := range []string{"x", "y"} {
			both.SetDagName(dag)
			_, err = r.Publish(ctx, both)
			r.must(err)
		}
		converge(t, r, keeper)
		r.compactDAG("x")
		if dropOther {
			r.compactDAG("y")
		}
		converge(t, r, keeper)
		net.split(0, 1)
		if _, err := r.PurgeDAG(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if got := len(r.pairs()) + len(r.rowsUnder("/s/r")); got != 0 {
			t.Errorf("%d pairs and records are left", got)
		}
		if n := len(r.rowsUnder("/s/t")); n != 2 {
			t.Errorf("%d tombstones are kept, want those of the other DAG", n)
		}
		net.heal()
		r.node.deliver(announcement(first.Cid))
		if got := fmt.Sprint(converge(t, keeper, r)); got != "map[/alive:v]" {
			t.Errorf("has %s", got)
		}
	}
}

// Where a version was removed in one of two checkpoints side by side, the purge knows that
// the DAG itself did.
func TestPurgeJoinsCheckpointsSideBySide(t *testing.T) {
	net := newTestNet()
	r, other := net.newReplica(t, silent), net.newReplica(t)
	r.publishIn("x", "/k", "v")
	r.publishIn("x", "/l", "v")
	converge(t, r, other)
	net.split(0, 1)
	r.publishIn("x", "/r", "v")
	other.removeIn("x", "/k")
	r.checkpointIn("x")
	theirs := other.checkpointIn("x")
	net.heal()
	converge(t, r, other)
	r.awaitHeld(theirs)
	_, err := r.CompactDAG(ctx, "x")
	r.must(err)
	if n := len(r.frontier.checkpoints().of("x")); n != 2 {
		t.Fatalf("%d checkpoints are left, want both", n)
	}
	if _, err := r.PurgeDAG(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	r.checkPurged()
	if rows := r.rowsUnder("/s"); len(rows) > 0 {
		t.Errorf("left are %v", rows)
	}
}

// Wherever a purge is cut off, a further call leaves nothing behind, and takes nothing
// that it has forgotten for what others have removed.
func TestPurgeOfADroppedDAGThatWasCutOff(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for at := range 100 {
			if !cutOffSnapshotPurge(t, at, plain) {
				break
			}
		}
	}
}

func cutOffSnapshotPurge(t *testing.T, at int, plain bool) (cutOff bool) {
	faulty := newFaultyStore()
	r := newTestNet().newReplicaOn(t, wrapPlain(faulty, plain), silent)
	r.put("/0", "main")
	r.publishIn("x", "/0", "x")
	for i := range 12 {
		r.publishIn("x", fmt.Sprint("/", i), fmt.Sprint(i))
	}
	r.removeIn("x", "/11")
	r.publishIn("y", "/10", "y")
	r.checkpointIn("x")
	if at%2 == 0 {
		_, err := r.CompactDAG(ctx, "x")
		r.must(err)
	}
	r.publishIn("x", "/0", "fresh")
	r.removeIn("x", "/9")
	r.purgeDAG("y", 1)
	faulty.dieAfter(at)
	_, err := r.PurgeDAG(ctx, "x")
	_ = r.Close()
	faulty.heal()
	r.open()
	waitFor(t, "the purge to go on", func() bool { return len(r.frontier.checkpoints().purged("x")) == 0 })
	if _, err := r.PurgeDAG(ctx, "x"); err != nil {
		t.Errorf("killed at write %d: PurgeDAG: %v", at, err)
	}
	r.checkPurged()
	if got := r.pairs(); !maps.Equal(got, map[string]string{"/0": "main"}) {
		t.Errorf("killed at write %d: has %v", at, got)
	}
	if rows := r.rowsUnder("/s/t"); len(rows) > 0 {
		t.Errorf("killed at write %d: tombstones are left: %v", at, rows)
	}
	return err != nil
}

// A purge that is cut off before it hides the DAG has dropped blocks below a checkpoint that
// stays held: what these gave to losers is uncovered as ever.
func TestPurgeThatIsCutOffKeepsValuesOfLosers(t *testing.T) {
	seen := false
	for at := 0; !seen && at < 20; at++ {
		faulty := newFaultyStore()
		r := newTestNet().newReplicaOn(t, faulty, silent)
		lost := r.publishIn("x", "/k", "loser").Cid
		r.put("/other", "v")
		r.put("/k", "winner")
		r.untidyCheckpointIn("x")
		faulty.dieAfter(at)
		_, _ = r.PurgeDAG(ctx, "x")
		faulty.heal()
		_, err := localDAG{r.node}.Get(ctx, lost)
		if seen = ipld.IsNotFound(err); !seen {
			continue
		}
		if len(r.frontier.checkpoints().held()) == 0 {
			t.Fatal("no purge was cut off between the drop and the hiding")
		}
		r.reopenWith(localDAG{r.node}, nil)
		r.removeWinner("/k")
		if got := r.get("/k"); got != "loser" {
			t.Errorf("cut off at write %d: /k is %s", at, got)
		}
	}
	if !seen {
		t.Error("no purge has dropped the block")
	}
}

// A version whose block was dropped may come to lose while its DAG is being purged, and win
// again before it is forgotten.
func TestWinnerThatLosesAmidAPurgeKeepsItsValue(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/other", "v")
	r.publishIn("x", "/k", "old")
	r.compactDAG("x")
	r.reopenWith(localDAG{r.node}, nil)
	_, end, err := r.checkpointer.begin(ctx, "") // or a purge that seems to be cut off is gone on with
	r.must(err)
	r.must(r.committer.do(ctx, func(c *commit) error { c.checkpoints.purge("x"); return nil }))
	r.put("/k", "new")
	r.removeWinner("/k")
	if got := r.get("/k"); got != "old" {
		t.Errorf("/k is %s", got)
	}
	end()
	if _, err := r.PurgeDAG(ctx, "x"); err != nil || r.get("/k") != "(none)" {
		t.Errorf("PurgeDAG: %v, and /k is %s", err, r.get("/k"))
	}
}

// What a purge that was cut off has hidden is no gap that a repair could fill.
func TestPurgeThatWasCutOffOfADirtyDatastore(t *testing.T) {
	seen := false
	for at := range 40 {
		faulty := newFaultyStore()
		r := newTestNet().newReplicaOn(t, faulty, silent)
		for i := range 4 {
			r.publishIn("x", fmt.Sprint("/", i), "1")
		}
		r.checkpointIn("x")
		r.publishIn("x", "/0", "fresh")
		faulty.dieAfter(at)
		_, err := r.PurgeDAG(ctx, "x")
		faulty.heal()
		if len(r.frontier.checkpoints().purged("x")) > 0 {
			seen = true
			r.MarkDirty(ctx)
		}
		if _, again := r.PurgeDAG(ctx, "x"); again != nil {
			t.Errorf("cut off at write %d: %v", at, again)
		}
		if err == nil {
			break
		}
	}
	if !seen {
		t.Error("nothing has been hidden by a purge that was cut off")
	}
}

// A checkpoint that is being taken when its DAG is purged leaves nothing either.
func TestPurgeAmidATake(t *testing.T) {
	net := newTestNet()
	author, r := net.newReplica(t), net.newReplica(t)
	r.node.away(true)
	r.put("/main", "v")
	for i := range 40 {
		d := newPBDelta()
		for k := range 200 {
			d.SetElements(append(must(d.GetElements()), &pb.Element{Key: fmt.Sprint("/", i, "/", k), Value: []byte("v")}))
		}
		d.SetDagName("x")
		_, err := author.Publish(ctx, d)
		author.must(err)
	}
	c := author.compactDAG("x")
	r.node.away(false)
	waitFor(t, "the checkpoint to be taken", func() bool { s := r.checkpointState(c.Cid); return s == checkpointTaking || s.held() })
	r.node.away(true)
	if _, err := r.PurgeDAG(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	r.checkPurged()
	if got := fmt.Sprint(r.pairs()); got != "map[/main:v]" {
		t.Errorf("%d pairs are left", len(r.pairs()))
	}
	r.node.away(false)
	if got := converge(t, author, r); len(got) != 8001 {
		t.Errorf("has %d pairs", len(got))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What is being forgotten is not merged again before that has ended.
func TestBlocksStayAwayWhileTheirSnapshotIsPurged(t *testing.T) {
	r := newTestNet().newReplica(t)
	h := r.publishIn("x", "/k", "v")
	id, err := blockIDOf(h.Cid)
	r.must(err)
	b, err := r.blocks.decode(id, r.node.raw(id))
	r.must(err)
	r.compactDAG("x")
	_, end, err := r.checkpointer.begin(ctx, "") // or a purge that seems to be cut off is gone on with
	r.must(err)
	r.must(r.committer.do(ctx, func(c *commit) error { c.checkpoints.purge("x"); return nil }))
	r.must(r.committer.do(ctx, func(c *commit) error { return c.merge(ctx, b) }))
	if ok, err := r.IsProcessed(ctx, h.Cid); ok || err != nil || r.state(h.Cid) != unknown {
		t.Errorf("IsProcessed: %v, %v", ok, err)
	}
	end()
	if _, err := r.PurgeDAG(ctx, "x"); err != nil || len(r.pairs()) > 0 {
		t.Errorf("PurgeDAG: %v, and left are %v", err, r.pairs())
	}
}

// What waits for blocks that a take has brought, and has not been told yet, is forgotten as
// well when the DAG is purged: nothing would lead to it later.
func TestPurgeBeforeATakeIsTold(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	middle := s.author.snapshot("").links[0]
	manyVersions(s.author)
	s.serve(t, middle)
	c := s.checkpoint(t)
	r := s.net.newReplica(t, walkHistory)
	by := r.checkpointer
	_, end, err := by.begin(ctx, "")
	r.must(err)
	for _, c := range []cid.Cid{middle.Cid(), c} {
		r.node.deliver(announcement(c))
		r.awaitMerged(c)
	}
	id := idOf(c)
	r.must(by.beginTake(ctx, by.checkpoint(id)))
	r.must(by.addEntries(ctx, by.checkpoint(id), true))
	r.must(by.finishTake(ctx, by.checkpoint(id)))
	purged := make(chan error)
	go func() { _, err := r.PurgeDAG(ctx, ""); purged <- err }()
	waitFor(t, "the purge to have its turn next", func() bool {
		by.mu.Lock()
		defer by.mu.Unlock()
		return by.purging != nil
	})
	end()
	r.must(<-purged)
	r.checkPurged()
}
