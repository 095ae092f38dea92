package crdt

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A summary that tells of what is being taken waits: whatever it claims has been removed
// already, or will be brought.
func TestSummaryAmidATake(t *testing.T) { synctest.Test(t, summaryAmidATake) }

func summaryAmidATake(t *testing.T) {
	var dead blockID
	s := newTakeTest(t, func(r *replica) {
		manyVersions(r)
		r.put("/dead", "x")
		dead = idOf(r.head())
		r.del("/dead")
	})
	c := s.checkpoint(t)
	r := s.net.newReplica(t, silent)
	r.publishIn("mine", "/mine", "v")
	by, cp := r.beginTake(c)
	r.must(by.addEntries(ctx, cp, false))
	r.must(by.removeDead(ctx, cp))
	claim := &pb.Element{Key: "/dead", Id: dead.dsKey(), Priority: 1, Value: []byte("x")}
	summary := r.offer(s.server, &pb.Delta{Priority: 3, Snapshot: true, SnapshotTotal: 1, SnapshotId: []byte("id"), Elements: []*pb.Element{claim}})
	waitFor(t, "the summary", func() bool { return r.node.raw(idOf(summary)) != nil })
	r.must(by.finishTake(ctx, cp))
	r.must(by.take(ctx, cp.id))
	r.awaitMerged(summary)
	if got := r.get("/dead"); got != "(none)" {
		t.Errorf("/dead is back: %q", got)
	}
}

// Options.WalkHistory never takes, also not what was wanted before it was set.
func TestWalkHistoryAfterARestart(t *testing.T) { synctest.Test(t, walkHistoryAfterARestart) }

func walkHistoryAfterARestart(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	elsewhere := s.net.node()
	f := s.author.snapshot("")
	c := f.publish(t, elsewhere)
	if err := s.server.addRaw(c, elsewhere.raw(idOf(c))); err != nil {
		t.Fatal(err)
	}
	elsewhere.away(true)
	r := s.net.newReplica(t, silent, patientRequests)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointWanted)
	r.opts.WalkHistory = true
	r.restart()
	elsewhere.away(false)
	r.awaitCheckpoint(c, checkpointSeen)
	time.Sleep(time.Hour)
	if n := len(r.pairs()); n > 0 || r.checkpointState(c) != checkpointSeen {
		t.Errorf("it was taken: %d pairs", n)
	}
}

// PurgeDAG forgets what a take has added that was left, begun again, and left at once.
func TestPurgeAfterATakeThatWasLeftTwice(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	c := s.checkpoint(t)
	r := s.net.newReplica(t, silent, walkHistory)
	by := r.checkpointer
	_, end, err := by.begin(ctx, "")
	r.must(err)
	r.node.deliver(announcement(c))
	r.awaitMerged(c)
	id := idOf(c)
	r.must(by.beginTake(ctx, by.checkpoint(id)))
	r.must(by.addEntries(ctx, by.checkpoint(id), false))
	r.must(by.leave(ctx, id, errLeft))
	r.must(by.beginTake(ctx, by.checkpoint(id)))
	r.must(by.leave(ctx, id, errLeft)) // as the first page cannot be had
	end()
	_, err = r.PurgeDAG(ctx, "")
	r.must(err)
	if n := len(r.pairs()); n > 0 {
		t.Errorf("%d pairs of the purged DAG are left", n)
	}
}

// A take uncovers versions whose blocks have been lost, and whose values it has itself.
func TestTakeHasTheValuesOfLostBlocks(t *testing.T) { synctest.Test(t, takeWithLostBlocks) }

func takeWithLostBlocks(t *testing.T) {
	s := newTakeTest(t, func(r *replica) { r.put("/k", "loser") })
	s.author.put("/k", "winner")
	winner := s.author.head()
	r := s.net.newReplica(t, silent)
	s.catchUp(t, r)
	above := s.author.offer(s.server, &pb.Delta{Priority: 3, Tombstones: []*pb.Element{tombstoneOf(t, "/k", winner)}}, winner)
	s.author.node.away(false)
	s.author.awaitMerged(above)
	s.author.node.away(true)
	for i := range 30 { // so that it is far above
		s.author.put("/x", fmt.Sprint(i))
		s.author.del("/x")
	}
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	for _, id := range f.cover {
		_ = r.node.Remove(ctx, id.Cid())
		_ = s.server.Remove(ctx, id.Cid())
	}
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	if got := r.get("/k"); got != "loser" {
		t.Errorf("/k is %q", got)
	}
}

// A checkpoint of a DAG that nobody knows does not remove what blocks of others have added.
func TestCheckpointOfAnotherDAG(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	for i := range 5 {
		r.put(fmt.Sprint("/k", i), "v")
	}
	foreign, own := r.snapshot(""), idOf(unavailable(7))
	f := &testSnapshot{dagName: "liar's", links: []blockID{own}, height: 200, cover: append(foreign.cover, own)}
	c := f.publish(t, net.node())
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointVoid)
	if n := len(r.pairs()); n != 5 {
		t.Errorf("%d pairs are left of 5", n)
	}
}

// A store of the old module that was closed amid a sync gets from a checkpoint what no
// repair can find any more, though it has the checkpoint for complete.
func TestGapsAreFilledByACheckpoint(t *testing.T) { synctest.Test(t, fillGaps) }

func fillGaps(t *testing.T) {
	s := newTakeTest(t, func(r *replica) { r.put("/lost", "value") })
	lost := s.author.snapshot("").links[0]
	manyVersions(s.author)
	r := s.net.newReplica(t, silent)
	s.catchUp(t, r)
	r.must(r.Close())
	keys := r.Datastore.store.keys
	for _, gone := range []ds.Key{keys.block(lost), keys.record("/lost")} {
		r.must(r.store.Delete(ctx, gone))
	}
	r.must(r.store.Put(ctx, keys.dirty, []byte{}))
	r.must(r.node.Remove(ctx, lost.Cid()))
	r.open()
	c := s.checkpoint(t)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	if got, want := r.pairs(), s.author.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	r.must(r.Repair(ctx))
	if r.IsDirty(ctx) {
		t.Error("it is dirty still")
	}
}

// What one take has added that was left is removed by another, of a checkpoint beside that, though
// no block of its cover has been merged.
func TestTakeRemovesWhatOneThatWasLeftHasAdded(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	first := s.checkpoint(t)
	s.author.del("/large")
	second := s.checkpoint(t)
	r := s.net.newReplica(t, silent, walkHistory)
	by, cp := r.beginTake(first)
	r.must(by.addEntries(ctx, cp, false))
	r.must(by.leave(ctx, cp.id, errLeft))
	if got := r.get("/large"); got == "(none)" {
		t.Fatal("the first take has not added /large")
	}
	r.node.deliver(announcement(second))
	r.awaitMerged(second)
	r.must(by.beginTake(ctx, by.checkpoint(idOf(second))))
	r.must(by.mergeSnapshot(ctx, by.checkpoint(idOf(second))))
	if got, want := r.pairs(), s.author.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
}
