package crdt

import (
	"context"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// mix merges what the old formats have in a store of formatVersion: the old
// module opened one when the version row still let it, and put, deleted, and
// merged blocks, in its own rows beside ours; or Downgrade was cut off.
func (m *migration) mix(ctx context.Context, stamp string) error {
	mixed, err := m.isMixed(ctx, stamp)
	if err != nil || !mixed {
		return err
	}
	m.mixed = true
	steps := []func(context.Context) error{m.markDirty, m.removeDead, m.moveVersions, m.removeOld, m.removeTombstones, m.removeClaims, m.mendHeads}
	if stamp == downgradingRow {
		steps = append([]func(context.Context) error{m.flatten}, steps...)
	} else if err := stampVersion(ctx, m.store, mixedRow); err != nil {
		return err
	}
	return m.takeSteps(ctx, steps)
}

func (m *migration) isMixed(ctx context.Context, stamp string) (bool, error) {
	if stamp != ownRow {
		return true, nil
	}
	mixed, err := m.store.hasAny(ctx, m.store.keys.oldSet)
	if mixed || err != nil {
		return mixed, err
	}
	return m.store.hasAny(ctx, m.store.keys.oldValues)
}

// markDirty has a repair look for blocks that the old module lost track of.
func (m *migration) markDirty(context.Context) error {
	m.put(m.store.keys.dirty, []byte{})
	return nil
}

// removeDead removes the versions that the old module has tombstones for. These
// stay for now: they are for its own versions as well.
func (m *migration) removeDead(ctx context.Context) error {
	return m.each(ctx, m.store.keys.tombstones, func(e query.Entry) error {
		key, id, ok := splitID(e.Key)
		if !ok || !isKey(key) {
			return nil
		}
		merged, err := m.store.Has(ctx, m.store.keys.block(id))
		if err != nil || !merged {
			return err
		}
		return m.replaceLive(ctx, key, id)
	})
}

// replaceLive removes a version of a key, if it is live, and puts others in its place.
func (m *migration) replaceLive(ctx context.Context, key string, id blockID, by ...*loser) error {
	c := newSetChange(m.store, false, false)
	k, err := c.load(ctx, key)
	if err != nil {
		return err
	}
	if live, err := c.isLive(ctx, k, id); err != nil || !live {
		return err
	}
	k.remove(id)
	for _, l := range by {
		k.setLoser(l.id, l)
	}
	if err := m.queueRows(ctx, c); err != nil {
		return err
	}
	return m.flush(ctx) // the next row may be about the same key
}

// contest gives a record that was here the value that the old rows have for its
// key, if that one wins.
func (m *migration) contest(ctx context.Context, key string, id blockID, r *record) error {
	old, err := m.oldRecord(ctx, key, id)
	if err != nil {
		return err
	}
	mine, theirs := r.version, old.version
	mine.id, theirs.id = blockID{}, blockID{}
	if theirs.beats(&mine) {
		r.priority, r.value = old.priority, old.value
	}
	return nil
}

// flatten takes away what formats 0 and 1 do not know: that a block is missing.
// Merged blocks become complete, pending heads become heads, and refused blocks are
// forgotten. If anything is missing, the datastore must be dirty. The claims of
// summaries stay, as the old module does not look at them: without them New would
// take the versions for those of merged blocks.
func (m *migration) flatten(ctx context.Context) error {
	for _, step := range []func(context.Context) error{m.raisePendingHeads, m.flattenMarks, m.removeQueue} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) raisePendingHeads(ctx context.Context) error {
	_, pendingHeads, err := m.store.loadTips(ctx)
	if err != nil {
		return err
	}
	for id, v := range pendingHeads {
		m.put(m.store.keys.head(id, v), headRow(v))
		m.remove(m.store.keys.pendingHead(id, v))
		if err := m.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) flattenMarks(ctx context.Context) error {
	return m.eachOf(ctx, m.store.rowsOf(ctx, m.store.keys.blocks, 1, false), func(e query.Entry) error {
		if len(e.Value) == 0 {
			return nil
		}
		row := ds.RawKey(m.store.keys.blocks + e.Key)
		switch mark, err := decodeMark(e.Value); {
		case err != nil:
			m.log.Warnf("%s is not a mark, and is taken for that of a merged block: %s", row, err)
			m.put(row, []byte{})
		case mark.state == refused:
			m.remove(row)
		default:
			m.put(row, []byte{})
		}
		return nil
	})
}

func (m *migration) removeQueue(ctx context.Context) error {
	for _, prefix := range []string{m.store.keys.queue, m.store.keys.waiting} {
		if err := m.removeUnder(ctx, prefix); err != nil {
			return err
		}
	}
	return nil
}

// lose adds a row for a loser, unless one is there: it may have a value.
func (m *migration) lose(ctx context.Context, key string, id blockID, value []byte) error {
	row := m.store.keys.loser(key, id)
	if m.losers {
		if found, err := m.store.Has(ctx, row); found || err != nil {
			return err
		}
	}
	m.put(row, value)
	return nil
}
