package crdt

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-ds-crdt/pb"
)

// below returns the blocks at and below the heads of a DAG, by links within it.
func (r *replica) below(dag string) map[blockID]*block {
	found := make(map[blockID]*block)
	heads, _ := r.frontier.tips()
	for todo := heads.of(dag); len(todo) > 0; {
		id := todo[0]
		todo = todo[1:]
		raw := r.node.raw(id)
		if found[id] != nil || raw == nil {
			continue
		}
		b, err := r.blocks.parse(id, raw)
		r.must(err)
		if b.delta.dagName == dag {
			found[id] = b
			todo = append(todo, b.links...)
		}
	}
	return found
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

// holdByHand makes a checkpoint of a DAG whose blocks are all here, by brute force.
func (r *replica) holdByHand(dag string) Head {
	r.t.Helper()
	blocks := r.below(dag)
	tree := newTreeBuilder(r.blocks)
	for _, e := range entriesOf(blocks) {
		r.must(tree.add(ctx, e))
	}
	root, err := tree.finish(ctx)
	r.must(err)
	ids := slices.SortedFunc(maps.Keys(blocks), blockID.compare)
	segments, err := r.blocks.extendCover(ctx, r.blocks, nil, uint64(len(ids)), func(yield func(coverID, error) bool) {
		for _, id := range ids {
			if !yield(id.inCover(), nil) {
				return
			}
		}
	})
	r.must(err)
	cover, err := r.blocks.writeCover(ctx, r.blocks, segments)
	r.must(err)
	r.must(r.committer.stageSegments(ctx, segments))
	return r.publishCheckpoint(dag, snapshotName{root.id, cover, root.entries, root.bytes, uint64(len(ids))}, segments)
}

func (r *replica) publishCheckpoint(dag string, name snapshotName, segments []segment) (h Head) {
	r.t.Helper()
	r.must(r.committer.do(ctx, func(c *commit) error {
		d := &pbDelta{pb.Delta{Priority: c.dag.height(dag), DagName: dag}}
		d.setCheckpoint(&name)
		b, err := r.blocks.build(d, c.dag.heads.now.of(dag))
		if err != nil {
			return err
		}
		h, c.made = b.head(), append(c.made, b)
		if err := c.merge(ctx, b); err != nil {
			return err
		}
		cp := *cmp.Or(c.checkpoints.now[b.id], b.checkpoint())
		cp.state, cp.since, cp.segments = checkpointHeld, time.Now(), segments
		c.checkpoints.set(&cp)
		return nil
	}))
	return h
}
