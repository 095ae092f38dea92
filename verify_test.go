package crdt

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ipfs/go-ds-crdt/pb"
)

// sound returns the checkpoint that would be made now.
func (r *replica) sound() *folded {
	r.t.Helper()
	heads, _ := r.frontier.tips()
	f, err := r.checkpointer.fold(ctx, "", heads.of(""), r.Datastore.blocks)
	r.must(err)
	return f
}

// forgeCheckpoint makes a checkpoint of the heads of r at a liar's, and announces it to r.
func (r *replica) forgeCheckpoint(liar *testNode, name snapshotName) Head {
	r.t.Helper()
	heads, height, err := r.Heads().ListDAG(ctx, "")
	r.must(err)
	d := &pb.Delta{Priority: height + 1, Checkpoint: name.message()}
	return Head{Cid: r.offer(liar, d, heads[0].Cid), HeadValue: HeadValue{Height: height + 1}}
}

func (r *replica) awaitState(h Head, state checkpointState) {
	r.t.Helper()
	waitFor(r.t, "a checkpoint to be judged", func() bool {
		cp := r.known(h)
		return cp != nil && cp.state == state
	})
}

// giveCover makes the pages of a cover at a liar's.
func giveCover(t *testing.T, liar *testNode, ids ...blockID) blockID {
	s := &blockStore{service: liar, maxSize: 2 << 20}
	segments, err := s.extendCover(ctx, s, nil, uint64(len(ids)), coverOf(ids))
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.writeCover(ctx, s, segments)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// A replica that has walked finds out what a false snapshot is, and goes on.
func TestFalseCheckpointIsVoid(t *testing.T) {
	for name, lie := range map[string]func(n *snapshotName, liar *testNode, ids []blockID){
		"other versions":  func(n *snapshotName, _ *testNode, _ []blockID) { n.versions = n.cover },
		"more entries":    func(n *snapshotName, _ *testNode, _ []blockID) { n.entries++ },
		"fewer bytes":     func(n *snapshotName, _ *testNode, _ []blockID) { n.bytes-- },
		"more blocks":     func(n *snapshotName, _ *testNode, _ []blockID) { n.blocks++ },
		"no cover":        func(n *snapshotName, _ *testNode, _ []blockID) { n.cover = n.versions },
		"a block too few": func(n *snapshotName, l *testNode, ids []blockID) { n.cover = giveCover(t, l, ids[1:]...) },
		"a block exchanged": func(n *snapshotName, l *testNode, ids []blockID) {
			n.cover = giveCover(t, l, append(ids[1:], testID(1))...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			net := newTestNet()
			liar, r := net.node(), net.newReplica(t, silent)
			var ids []blockID
			for i := range 5 {
				r.put(fmt.Sprint("/a", i%3), fmt.Sprint(i))
				id, err := blockIDOf(r.head())
				r.must(err)
				ids = append(ids, id)
			}
			name := r.sound().snapshot
			lie(&name, liar, ids)
			head := r.forgeCheckpoint(liar, name)
			r.awaitState(head, checkpointVoid)
			if n := r.InternalStats(ctx).VoidCheckpoints; n != 1 {
				t.Errorf("%d are counted", n)
			}
			r.restart()
			if cp := r.known(head); cp == nil || cp.state != checkpointVoid {
				t.Errorf("after a restart it is %v", cp)
			}
			r.put("/b", "1")
			if next := r.known(r.checkpoint()); next.snapshot.blocks != 8 { // with the void one, and one that tidies
				t.Errorf("the next one covers %d blocks", next.snapshot.blocks)
			}
		})
	}
}

// Covers may be cut into segments otherwise: the ids count.
func TestCheckpointOfOtherSegmentsIsHeld(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t, walkHistory)
	net.split(0, 1)
	for _, n := range []int{40, 4} {
		for i := range n {
			a.put(fmt.Sprint("/a", i), fmt.Sprint(n))
		}
		a.checkpoint()
	}
	last := a.newestHeld()
	if len(last.segments) < 2 {
		t.Fatalf("segments %v", last.segments)
	}
	net.heal()
	b.awaitHeld(last.head())
	held := b.known(last.head())
	if held.taken {
		t.Error("it was taken, and not checked")
	}
	if fmt.Sprint(held.segments) != fmt.Sprint(last.segments) {
		t.Errorf("segments %v, want %v", held.segments, last.segments)
	}
	for id, err := range b.Datastore.blocks.coverPages(ctx, held.snapshot.cover) {
		if err != nil || b.node.raw(id) == nil {
			t.Errorf("page %s of the cover is not here: %v", id.Cid(), err)
		}
	}
	waitFor(t, "pages that nobody has named to go", func() bool {
		return len(b.rowsUnder("/w/d")) == 0
	})
}

// Of a snapshot that was taken nobody knows whether it is right. A replica stands by it, and
// tells the operator what contradicts it.
func TestCheckpointThatContradictsOneThatWasTakenIsVoid(t *testing.T) {
	net, log := newTestNet(), &errorLines{}
	liar, r := net.node(), net.newReplica(t, log.log)
	r.put("/a", "1")
	first := r.checkpoint()
	r.must(r.committer.do(ctx, func(now *commit) error {
		cp := *r.known(first)
		cp.taken = true
		now.checkpoints.set(&cp)
		return nil
	}))
	r.put("/b", "1")
	name := r.sound().snapshot
	name.entries++
	head := r.forgeCheckpoint(liar, name)
	r.awaitState(head, checkpointVoid)
	if n := r.InternalStats(ctx).VoidCheckpoints; n != 1 || !log.names(head.Cid, first.Cid) {
		t.Errorf("%d are counted, and the log says %q", n, log.lines)
	}
	if r.known(first).state != checkpointHeld {
		t.Error("what the one that was taken covers cannot be dropped")
	}
	r.put("/c", "1")
	if next := r.known(r.checkpoint()); !next.taken {
		t.Error("the next one does not rest on it")
	}
}

// What cannot be folded here is neither held nor void, until there may be a way.
func TestCheckpointThatCannotBeCheckedIsUndecided(t *testing.T) {
	w := newFoldWorld(t, 1)
	bottom := w.add(&pb.Delta{Priority: 1, Elements: oneElement("/a")}, nil)
	top := w.add(&pb.Delta{Priority: 2}, []blockID{bottom.id})
	f, err := w.fold(ctx, "", []blockID{top.id}, w.checkpointer.blocks)
	w.must(err)
	cp := w.add(&pb.Delta{Priority: 3, Checkpoint: f.snapshot.message()}, []blockID{top.id}).checkpoint()
	w.must(w.committer.do(ctx, func(now *commit) error {
		now.checkpoints.see(cp)
		return nil
	}))
	w.must(w.checkpointer.blocks.remove(ctx, bottom.id))
	for range 2 {
		if did, err := w.verifyNext(ctx); err != nil || w.committer.frontier.checkpoints()[cp.id].state != checkpointSeen {
			t.Errorf("%v, %v", did, err)
		}
	}
	if next, err := w.nextToVerify(ctx); next != nil || err != nil {
		t.Errorf("it is to be tried again: %v, %v", next, err)
	}
	other := w.add(&pb.Delta{Priority: 1, DagName: "d"}, nil)
	f, err = w.fold(ctx, "d", []blockID{other.id}, w.checkpointer.blocks)
	w.must(err)
	w.hold(w.add(&pb.Delta{Priority: 2, DagName: "d", Checkpoint: f.snapshot.message()}, []blockID{other.id}).checkpoint(), f)
	w.rest = time.Time{}
	if next, err := w.nextToVerify(ctx); next == nil || err != nil {
		t.Errorf("it is not to be tried again: %v", err)
	}
}

// To check a checkpoint made of a block of long ago would be to read all history.
func TestOldBlocksAreReadWithinALimit(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 20 {
		r.put(fmt.Sprint("/", i), "v")
	}
	long := r.head()
	r.put("/last", "v")
	r.checkpoint()
	_, err := r.checkpointer.foldWithin(ctx, "", []blockID{idOf(long)}, noPages{}, 19)
	if !errors.Is(err, errLongWay) {
		t.Errorf("20 blocks are read: %v", err)
	}
	_, err = r.checkpointer.foldWithin(ctx, "", []blockID{idOf(long)}, noPages{}, 20)
	r.must(err)
}
