package crdt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	ipld "github.com/ipfs/go-ipld-format"
)

// Downgrade turns the store of a replica that is closed back into one of format
// 1, for the old module to open. The pairs stay as they are. It goes row by row
// and needs little memory. If it is cut off, a second call goes on. Until it is
// done the old module refuses the store; New opens it and turns it back, and
// nothing is lost. A store of an older format is left alone; one of a newer
// format is refused with ErrNewerVersion. That nothing is there is an error too.
// A store that has dropped what is below a checkpoint, or taken a peer's checkpoint in its
// place, is refused: the old
// module would merge again what that covers.
//
// The namespaces below namespace must be the default ones (see
// InternalNamespaces). A store that is open, or was not closed, is refused: open
// it with New and close it first.
//
// What format 1 cannot say is lost: which blocks are missing, and which were
// refused. If any are missing, the datastore is marked dirty, and the old module
// finds them by a repair. It reads the value of a version that loses from its
// block, and so fails to bring back one whose block is gone. Such values, and what
// summaries claim, are kept where New finds them again.
func Downgrade(ctx context.Context, store ds.Datastore, namespace ds.Key, dagSyncer ipld.DAGService) error {
	if store == nil || dagSyncer == nil {
		return errors.New("crdt: Downgrade needs a store and a DAG service")
	}
	names, err := InternalNamespaces{}.complete()
	if err != nil {
		return err
	}
	rows, err := newRowStore(ctx, store, newKeyspace(namespace, names))
	if err != nil {
		return err
	}
	version, stamp, err := storedVersion(ctx, rows)
	switch {
	case err != nil:
		return err
	case version < formatVersion:
		return mustExist(ctx, rows)
	case version == coveredVersion:
		return fmt.Errorf("crdt: the store below %s has dropped what is below a checkpoint, or taken a peer's checkpoint in its place, and there is no way back: the old module would merge again what it covers", namespace)
	}
	if err := mustBeClosed(ctx, rows); err != nil {
		return err
	}
	opts := DefaultOptions()
	blocks := &blockStore{service: dagSyncer, newDelta: newPBDelta, timeout: opts.DAGSyncerTimeout, maxSize: opts.MaxBlockSize}
	if err := newMigration(rows, blocks, opts.Logger).goBack(ctx, stamp); err != nil {
		return fmt.Errorf("crdt: downgrading the store to format %d: %w", oldFormat, err)
	}
	return stampVersion(ctx, rows, string(binary.AppendUvarint(nil, oldFormat+1)))
}

// oldFormat is what Downgrade makes.
const oldFormat = 1

func mustExist(ctx context.Context, store *rowStore) error {
	found, err := store.hasAny(ctx, store.keys.namespace.String())
	if !found {
		err = fmt.Errorf("crdt: there is no store below %s", store.keys.namespace)
	}
	return err
}

func mustBeClosed(ctx context.Context, store *rowStore) error {
	open, err := store.Has(ctx, store.keys.open)
	if open {
		err = fmt.Errorf("crdt: the store below %s is open, or was not closed: open it with New and close it first", store.keys.namespace)
	}
	return err
}

// goBack begins with a store in which all is of formatVersion, or goes on.
func (m *migration) goBack(ctx context.Context, stamp string) error {
	if stamp == downgradingRow {
		if err := m.store.redo(ctx); err != nil {
			return err
		}
	} else if err := migrate(ctx, m.store, m.blocks, m.log); err != nil {
		return err
	}
	if err := stampVersion(ctx, m.store, downgradingRow); err != nil {
		return err
	}
	return m.takeSteps(ctx, []func(context.Context) error{m.markGaps, m.flatten, m.removeCheckpoints, m.restoreVersions, m.showNamedHeads})
}

// markGaps marks the datastore dirty when something is missing in it.
func (m *migration) markGaps(ctx context.Context) error {
	for _, prefix := range []string{m.store.keys.queue, m.store.keys.waiting, m.store.keys.pendingHeads} {
		if gaps, err := m.store.hasAny(ctx, prefix); err != nil {
			return err
		} else if gaps {
			return m.markDirty(ctx)
		}
	}
	return nil
}

// removeCheckpoints removes what is known of checkpoints. All that they cover has marks of
// its own. Pages that were about to be removed stay in the DAG service.
func (m *migration) removeCheckpoints(ctx context.Context) error {
	m.remove(m.store.keys.spare)
	m.remove(m.store.keys.dropping)
	for _, prefix := range []string{m.store.keys.checkpoints, m.store.keys.segments, m.store.keys.toSweep} {
		if err := m.removeUnder(ctx, prefix); err != nil {
			return err
		}
	}
	return nil
}

// restoreVersions makes old rows of the records and the losers.
func (m *migration) restoreVersions(ctx context.Context) error {
	return m.eachOf(ctx, m.store.rowsUnder(ctx, m.store.keys.records, false, 0), func(e query.Entry) error {
		r, err := decodeRecord(e.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		return m.restoreKey(ctx, e.Key, r)
	})
}

// restoreKey writes the winning value first and removes the record last: between
// its batches New finds both in the store, and merges them.
func (m *migration) restoreKey(ctx context.Context, key string, r *record) error {
	m.put(ds.RawKey(m.store.keys.oldValues+key+"/v"), r.value)
	m.put(ds.RawKey(m.store.keys.oldValues+key+"/p"), binary.AppendUvarint(nil, r.priority+1))
	if r.losers {
		if err := m.restoreLosers(ctx, key); err != nil {
			return err
		}
	}
	if !r.unresolved {
		m.put(m.store.keys.oldVersion(key, r.id), []byte{})
	}
	if r.keepValue {
		m.put(m.store.keys.loser(key, r.id), (&loser{version: r.version}).encode())
	}
	m.remove(m.store.keys.record(key))
	return nil
}

// restoreLosers leaves the rows that have values: their blocks are gone.
func (m *migration) restoreLosers(ctx context.Context, key string) error {
	for r, err := range m.store.blockRows(ctx, m.store.keys.losersOf(key), false) {
		if err != nil {
			return err
		}
		l, err := decodeLoser(r.id, r.value)
		if err != nil {
			return err
		}
		m.put(m.store.keys.oldVersion(key, r.id), []byte{})
		if !l.keepValue {
			m.remove(m.store.keys.loser(key, r.id))
		}
		if err := m.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

// showNamedHeads puts the heads of named DAGs among those of the unnamed one as
// well. v0.6.8 knows no others, and would neither announce nor build on them.
func (m *migration) showNamedHeads(ctx context.Context) error {
	heads, _, err := m.store.loadTips(ctx)
	if err != nil {
		return err
	}
	for id, v := range heads {
		m.put(m.store.keys.head(id, HeadValue{}), headRow(v))
		if err := m.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}
