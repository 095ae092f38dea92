package crdt

import (
	"context"
	"errors"
	"slices"
)

// removers say which versions of the DAG that is being purged are named by tombstones,
// and whether one of another DAG is among these.
type removers map[versionName]bool

// errUnexplained says that a version of the DAG has been removed, and that it
// must be found out by whom.
var errUnexplained = errors.New("crdt: some version is gone")

// explain looks through all merged blocks for tombstones of the DAG's versions,
// and for each version whether another DAG has one. A version for which there is
// none was removed by a DAG that has been purged since.
func (p *purge) explain(ctx context.Context) error {
	ids, err := p.store.mergedHere(ctx)
	if err != nil {
		return err
	}
	names := make(removers)
	err = p.eachOf(ctx, ids, func(b *block) error {
		for _, t := range b.delta.tombstones {
			if id, ok := parseDsKey(t.GetId()); ok {
				if err := p.noteRemoval(ctx, names, versionName{t.GetKey(), id}, !p.hidden[b.id]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = p.explainByOpen(ctx, names)
	}
	if err == nil {
		p.names = names
	}
	return err
}

// mergedHere returns the blocks that have been merged and are in the DAG service.
func (s *rowStore) mergedHere(ctx context.Context) (ids []blockID, err error) {
	for r, err := range s.blockRows(ctx, s.keys.blocks, false) {
		var m *mark
		if err == nil {
			m, err = decodeMark(r.value)
		}
		if err != nil {
			return nil, err
		}
		if m.state.merged() {
			ids = append(ids, r.id)
		}
	}
	return ids, nil
}

// noteRemoval takes notice of a tombstone, if it is about the DAG that is being purged.
func (p *purge) noteRemoval(ctx context.Context, names removers, n versionName, byOthers bool) error {
	own, err := p.owns(ctx, n.id)
	if own {
		names[n] = names[n] || byOthers
	}
	return err
}

// owns reports whether a block is one of those that are being purged.
func (p *purge) owns(ctx context.Context, id blockID) (bool, error) {
	if p.hides(id) {
		return true, nil
	}
	return p.store.inSegments(ctx, p.segments, id)
}

// explainByOpen looks through the open tombstones of all snapshots, which stand for those
// in blocks that are not here.
func (p *purge) explainByOpen(ctx context.Context, names removers) error {
	for _, cp := range p.committer.frontier.checkpoints() {
		if !cp.hasPages() {
			continue
		}
		for e, err := range p.blocks.openTombstones(ctx, cp.snapshot.tree()) {
			if err != nil {
				return err
			}
			if err := p.noteRemoval(ctx, names, versionName{e.key, e.id}, cp.tip.DAGName != p.dagName); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepRemoved leaves tombstones for versions that other DAGs have removed: also for those
// that the DAG has removed as well, which no snapshot has.
func (p *purge) keepRemoved(ctx context.Context) error {
	var names []versionName
	for n, byOthers := range p.names {
		if byOthers && !p.hides(n.id) {
			names = append(names, n)
		}
	}
	for some := range slices.Chunk(names, p.committer.most(maxForgotten)) {
		err := p.committer.do(ctx, func(c *commit) error {
			for _, n := range some {
				c.set.setTombstone(n, true)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
