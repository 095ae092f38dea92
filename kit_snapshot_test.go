package crdt

import (
	"iter"
	"slices"
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A testSnapshot is what a checkpoint carries, found by brute force, and as a test may
// change it before it is published.
type testSnapshot struct {
	dagName string
	links   []blockID
	height  uint64
	entries []entry
	cover   []blockID
	alter   func(*snapshotName) // nil: nothing
}

// snapshot is that of all blocks at and below the heads of a DAG.
func (r *replica) snapshot(dagName string) *testSnapshot {
	r.t.Helper()
	heads, _ := r.frontier.tips()
	return r.snapshotAt(dagName, heads.of(dagName)...)
}

func (r *replica) snapshotAt(dagName string, heads ...blockID) *testSnapshot {
	r.t.Helper()
	s := &testSnapshot{dagName: dagName, links: heads}
	blocks := r.blocksBelow(dagName, heads)
	for _, b := range blocks {
		s.cover = append(s.cover, b.id)
		if slices.Contains(heads, b.id) {
			s.height = max(s.height, b.delta.priority+1)
		}
	}
	for _, e := range entriesOf(blocks) {
		s.entries = append(s.entries, *e)
	}
	return s
}

// entriesOf is the snapshot of some blocks, by brute force.
func entriesOf(blocks map[blockID]*block) (entries []*entry) {
	removed := make(map[versionName]bool)
	for _, b := range blocks {
		for _, t := range b.delta.tombstones {
			if id, ok := parseDsKey(t.GetId()); ok {
				removed[versionName{t.GetKey(), id}] = true
			}
		}
	}
	for id, b := range blocks {
		for key, l := range b.versions() {
			if !removed[versionName{key, id}] {
				entries = append(entries, &entry{key: key, id: id, priority: l.priority, value: l.value})
			}
		}
	}
	for n := range removed {
		if blocks[n.id] == nil {
			entries = append(entries, &entry{key: n.key, id: n.id, tombstone: true})
		}
	}
	slices.SortFunc(entries, (*entry).compare)
	return entries
}

// blocksBelow returns the blocks of a DAG at and below some.
func (r *replica) blocksBelow(dagName string, from []blockID) map[blockID]*block {
	r.t.Helper()
	found := make(map[blockID]*block)
	for todo := slices.Clone(from); len(todo) > 0; {
		id := todo[0]
		if todo = todo[1:]; found[id] != nil {
			continue
		}
		b, err := r.Datastore.blocks.decode(id, r.node.raw(id))
		r.must(err)
		if b.delta.dagName == dagName {
			found[id] = b
			todo = append(todo, b.links...)
		}
	}
	return found
}

// publish adds the pages and the checkpoint to a node's DAG service.
func (s *testSnapshot) publish(t *testing.T, at *testNode) cid.Cid {
	t.Helper()
	blocks := &blockStore{service: at, maxSize: DefaultOptions().MaxBlockSize}
	slices.SortFunc(s.entries, func(a, b entry) int { return a.compare(&b) })
	tree := newTreeBuilder(blocks)
	for i := range s.entries {
		if err := tree.add(ctx, &s.entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	segments, err := blocks.extendCover(ctx, blocks, nil, uint64(len(s.cover)), coverOf(s.cover))
	if err != nil {
		t.Fatal(err)
	}
	cover, err := blocks.writeCover(ctx, blocks, segments)
	if err != nil {
		t.Fatal(err)
	}
	name := snapshotName{root.id, cover, root.entries, root.bytes, uint64(len(s.cover))}
	if s.alter != nil {
		s.alter(&name)
	}
	links := make([]cid.Cid, len(s.links))
	for i, id := range s.links {
		links[i] = id.Cid()
	}
	return at.forge(t, marshalDelta(t, &pb.Delta{Priority: s.height, DagName: s.dagName, Checkpoint: name.message()}), links...)
}

// coverOf yields the ids of blocks as a cover has them.
func coverOf(blocks []blockID) iter.Seq2[coverID, error] {
	return func(yield func(coverID, error) bool) {
		for _, id := range slices.SortedFunc(slices.Values(blocks), blockID.compare) {
			if !yield(id.inCover(), nil) {
				return
			}
		}
	}
}

// away cuts a node off from all others, or brings it back.
func (node *testNode) away(is bool) {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	node.gone = is
	node.net.signalLocked()
}

// checkpoint returns what is known of a checkpoint, or one without a state.
func (r *replica) checkpointState(c cid.Cid) checkpointState {
	r.t.Helper()
	id, err := blockIDOf(c)
	r.must(err)
	cp := r.frontier.checkpoints()[id]
	if cp == nil {
		return lastCheckpointState + 1
	}
	return cp.state
}

func (r *replica) awaitCheckpoint(c cid.Cid, state checkpointState) {
	r.t.Helper()
	waitFor(r.t, "a checkpoint to get into another state", func() bool { return r.checkpointState(c) == state })
}

func idOf(c cid.Cid) blockID {
	id, err := blockIDOf(c)
	if err != nil {
		panic(err)
	}
	return id
}

func walkHistory(o *Options) { o.WalkHistory = true }
