package crdt

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// removeDead removes the versions that the cover of a checkpoint has removed, as by
// tombstones: those of its blocks that its snapshot does not have. There may be some
// though none of the blocks has been merged here, as takes that were left add versions.
//
// It is one pass over the records beside one over the entries. No such version can come
// any more, so what is read beside other commits will do. After a restart it begins anew:
// go-datastore has no way to start in the middle.
func (t *taker) removeDead(ctx context.Context, cp *checkpoint) error {
	versions := t.blocks.openVersions(ctx, cp.snapshot.tree(), 0)
	defer versions.stop()
	scan := &deadScan{store: t.store, of: cp, versions: versions, dags: newDAGFinder(t.committer, cp.tip.DAGName)}
	records := query.Query{Prefix: t.store.keys.records, Orders: []query.Order{query.OrderByKey{}}}
	for e, err := range ds.QueryIter(ctx, t.store.Datastore, records) {
		if err == nil {
			err = scan.look(ctx, e)
		}
		if err == nil && len(scan.dead) >= t.committer.most(maxDead) {
			err = t.removeDeadOf(ctx, scan)
		}
		if err != nil {
			return err
		}
	}
	return t.removeDeadOf(ctx, scan)
}

// removeDeadOf removes what a scan has found, in commits of bounded size.
func (t *taker) removeDeadOf(ctx context.Context, s *deadScan) error {
	for some := range slices.Chunk(s.dead, t.committer.most(maxDead)) {
		err := t.update(ctx, s.of.id, func(now *commit, _ *checkpoint) error {
			for _, n := range some {
				if err := now.set.remove(ctx, n.key, n.id, now.dag.merged); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.dead = s.dead[:0]
	return nil
}

// A deadScan goes through the versions of a snapshot beside the records.
type deadScan struct {
	store    *rowStore
	of       *checkpoint
	versions *versionCursor
	dags     *dagFinder
	dead     []versionName // found since the last commit
}

// look notes the versions to remove of the key of a record.
func (s *deadScan) look(ctx context.Context, record query.Entry) error {
	key := record.Key[len(s.store.keys.records):]
	live, err := s.liveOf(key)
	if err != nil {
		return err
	}
	here, err := s.store.versionsOf(ctx, key, record.Value)
	if err != nil {
		return err
	}
	for _, id := range here {
		if live[id] {
			continue
		}
		dead, err := s.hasRemoved(ctx, id)
		if err != nil {
			return err
		}
		if dead {
			s.dead = append(s.dead, versionName{key, id})
		}
	}
	return nil
}

// hasRemoved reports whether the cover has a block, of which the snapshot lacks a version. If
// that is of another DAG, the checkpoint lies: no replica that walks would remove it.
func (s *deadScan) hasRemoved(ctx context.Context, id blockID) (bool, error) {
	covered, err := s.store.inSegments(ctx, s.of.segments, id)
	if err != nil || !covered {
		return false, err
	}
	name, known, err := s.dags.dagOf(ctx, id)
	if err == nil && known && name != s.of.tip.DAGName {
		err = fmt.Errorf("%w: it is of DAG %q, and covers block %s of DAG %q", errBadSnapshot, s.of.tip.DAGName, id.Cid(), name)
	}
	return err == nil, err
}

// liveOf returns the versions of a key that the snapshot has. The keys come in order.
func (s *deadScan) liveOf(key string) (live map[blockID]bool, err error) {
	v := s.versions
	for ; v.at != nil && v.at.key <= key; v.advance() {
		if v.at.key == key {
			setIn(&live, v.at.id, true)
		}
	}
	if v.err != nil {
		return nil, fmt.Errorf("%w: %w", errLeft, v.err)
	}
	return live, nil
}

// versionsOf returns the live versions of a key whose record has been read, maybe some
// time ago. A version moves between the record and the rows of losers as others come and go, and
// must not be missed in between: all is read again if the record has changed.
func (s *rowStore) versionsOf(ctx context.Context, key string, record []byte) (ids []blockID, err error) {
	for {
		r, err := decodeRecord(record)
		if err != nil {
			return nil, fmt.Errorf("%w of %s", err, key)
		}
		if !r.losers {
			return r.appendWinner(nil), nil
		}
		if ids, err = s.losersOf(ctx, key); err != nil {
			return nil, err
		}
		now, found, err := s.getRow(ctx, s.keys.record(key))
		if err != nil || !found {
			return nil, err
		}
		if bytes.Equal(now, record) {
			return r.appendWinner(ids), nil
		}
		record = now
	}
}

func (r *record) appendWinner(ids []blockID) []blockID {
	if r.unresolved {
		return ids
	}
	return append(ids, r.id)
}

func (s *rowStore) losersOf(ctx context.Context, key string) (ids []blockID, err error) {
	for r, err := range s.blockRows(ctx, s.keys.losersOf(key), true) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, r.id)
	}
	return ids, nil
}
