package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	logging "github.com/ipfs/go-log/v2"
)

// formatVersion is the format that this code reads and writes.
const formatVersion = 2

const (
	migrationBatch    = 4000            // rows written at a time
	migrationBytes    = 1 << 20         // of values, likewise
	migrationProgress = 100_000         // rows between two log lines
	headsTimeout      = 5 * time.Second // to read the blocks of the heads
)

// A migration turns a store of format 0 or 1 into one of formatVersion.
//
// It goes over the old rows one by one and replaces each by what stands for it
// in the new format, in the same batch. So it needs little memory, and can be
// cut off anywhere: what is left of the old rows is done the next time.
type migration struct {
	store  *rowStore
	blocks *blockStore
	log    logging.StandardLogger

	rows    []row              // of the next batch
	records map[string]*record // changed by it
	bytes   int                // of values in it
	seen    int
}

// migrate brings the store to formatVersion. It touches nothing in a store of a
// newer one.
func migrate(ctx context.Context, store *rowStore, blocks *blockStore, log logging.StandardLogger) error {
	version, err := storedVersion(ctx, store)
	switch {
	case err != nil:
		return err
	case version > formatVersion:
		return fmt.Errorf("%w: it is %d, this code knows up to %d", ErrNewerVersion, version, formatVersion)
	}
	if err := store.recover(ctx); err != nil {
		return fmt.Errorf("crdt: finishing an interrupted write: %w", err)
	}
	if version < formatVersion {
		m := &migration{store: store, blocks: blocks, log: log, records: make(map[string]*record)}
		if err := m.run(ctx, version); err != nil {
			return fmt.Errorf("crdt: migrating the store from format %d: %w", version, err)
		}
	}
	return stampVersion(ctx, store)
}

// stampVersion says in the store that it is of formatVersion.
func stampVersion(ctx context.Context, store *rowStore) error {
	stamp := []row{{key: store.keys.version, value: []byte{versionRow}}}
	if done, err := store.holds(ctx, stamp); done || err != nil {
		return err
	}
	return store.Put(ctx, stamp[0].key, stamp[0].value)
}

// versionRow is the format plus 1 with the bit set by which a uvarint goes on:
// one that has no end. The old module fails on it. It takes a number that it
// does not know for its own, shows the store empty, and writes to it.
const versionRow = unended | (formatVersion + 1)

const unended = 1 << 7

// storedVersion also reads the plain uvarint of formats 0 and 1, which stores of
// format 2 had at first.
func storedVersion(ctx context.Context, store *rowStore) (uint64, error) {
	b, found, err := store.get(ctx, store.keys.version)
	if err != nil || !found {
		return 0, err
	}
	if len(b) == 1 {
		b = []byte{b[0] &^ unended}
	}
	v, n := binary.Uvarint(b)
	if n <= 0 || v == 0 {
		return 0, fmt.Errorf("crdt: row %s holds no format version: %x", store.keys.version, b)
	}
	return v - 1, nil
}

// run takes the steps in an order in which each may be begun again: a version
// that has a tombstone goes before its tombstone does.
func (m *migration) run(ctx context.Context, version uint64) error {
	steps := []func(context.Context) error{m.moveVersions, m.electAgain, m.dropOld, m.dropTombstones, m.mendHeads, m.checkShutdown}
	if version > 0 {
		steps[1] = func(context.Context) error { return nil }
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := m.flush(ctx); err != nil {
			return err
		}
	}
	if m.seen > 0 {
		m.log.Infof("store migrated from format %d to %d: %d rows", version, formatVersion, m.seen)
	}
	return nil
}

// each calls f with the rows under a prefix, and writes what f queues.
func (m *migration) each(ctx context.Context, prefix string, f func(query.Entry) error) error {
	for e, err := range m.store.rows(ctx, prefix, true, 0) {
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
		if m.seen++; m.seen%migrationProgress == 0 {
			m.log.Infof("migrating the store: %d rows so far", m.seen)
		}
		if len(m.rows) >= migrationBatch || m.bytes >= migrationBytes {
			if err := m.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *migration) flush(ctx context.Context) error {
	for key, r := range m.records {
		m.put(m.store.keys.record(key), r.encode())
	}
	clear(m.records)
	m.bytes = 0
	if len(m.rows) == 0 {
		return nil
	}
	err := m.store.write(ctx, m.rows)
	m.rows = nil
	return err
}

func (m *migration) put(key ds.Key, value []byte) {
	m.rows = append(m.rows, row{key: key, value: value})
}

func (m *migration) remove(key ds.Key) { m.rows = append(m.rows, row{key: key, remove: true}) }

// moveVersions makes records of the live versions.
func (m *migration) moveVersions(ctx context.Context) error {
	return m.each(ctx, m.store.keys.oldSet, func(e query.Entry) error {
		key, id, ok := splitID(e.Key)
		if !ok || !isKey(key) {
			m.log.Warnf("migration leaves out %q: it is no version of a key", e.Key)
			return nil
		}
		dead, err := m.store.Has(ctx, m.store.keys.tombstone(key, id))
		if err != nil || dead {
			return err
		}
		m.remove(ds.RawKey(m.store.keys.oldSet + e.Key))
		return m.addVersion(ctx, key, id)
	})
}

// addVersion adds one live version to the record of its key. The old format
// does not say which of several is the winner, nor what the others hold: that
// is left to be read from their blocks, if ever it matters.
func (m *migration) addVersion(ctx context.Context, key string, id blockID) error {
	r, err := m.record(ctx, key)
	if err != nil {
		return err
	}
	switch {
	case r == nil:
		r, err = m.oldRecord(ctx, key, id)
	case !r.unresolved && r.id != id:
		m.put(m.store.keys.loser(key, r.id), []byte{})
		r.id, r.losers, r.unresolved = blockID{}, true, true
		fallthrough
	case r.unresolved:
		m.put(m.store.keys.loser(key, id), []byte{})
	}
	if err == nil && m.records[key] == nil {
		m.records[key] = r
		m.bytes += len(r.value)
	}
	return err
}

func (m *migration) record(ctx context.Context, key string) (*record, error) {
	if r := m.records[key]; r != nil {
		return r, nil
	}
	b, found, err := m.store.get(ctx, m.store.keys.record(key))
	if err != nil || !found {
		return nil, err
	}
	return decodeRecord(b)
}

// oldRecord reads the value and the priority of a key from the old rows, or,
// if the old module was cut off before it wrote them, from the block.
func (m *migration) oldRecord(ctx context.Context, key string, id blockID) (*record, error) {
	value, found, err := m.store.get(ctx, ds.RawKey(m.store.keys.oldValues+key+"/v"))
	if err != nil {
		return nil, err
	}
	p, foundP, err := m.store.get(ctx, ds.RawKey(m.store.keys.oldValues+key+"/p"))
	if err != nil {
		return nil, err
	}
	if priority, n := binary.Uvarint(p); found && foundP && n > 0 && priority > 0 {
		return &record{version: version{id: id, priority: priority - 1, value: value}}, nil
	}
	b, err := m.blocks.get(ctx, m.blocks.dag, id)
	if err != nil {
		return nil, fmt.Errorf("%s has no value: %w", key, err)
	}
	v := b.versions()[key]
	if v == nil {
		return nil, fmt.Errorf("%s has no value, and none in its block %s", key, id.Cid())
	}
	return &record{version: v.version}, nil
}

// electAgain chooses the winners of keys with tombstones anew: format 0 may
// have wrong ones.
func (m *migration) electAgain(ctx context.Context) error {
	last := ""
	return m.each(ctx, m.store.keys.oldSet, func(e query.Entry) error {
		key, _, ok := splitID(e.Key)
		m.remove(ds.RawKey(m.store.keys.oldSet + e.Key))
		if !ok || key == last || !isKey(key) {
			return nil
		}
		last = key
		return m.elect(ctx, key)
	})
}

func (m *migration) elect(ctx context.Context, key string) error {
	c := newSetChange(m.store, false, false)
	k, err := c.load(ctx, key)
	if err != nil || k.win == nil {
		return err
	}
	if !k.unresolved {
		k.setLoser(k.win.id, &loser{version: version{id: k.win.id}})
	}
	k.win, k.open, k.unresolved = nil, true, false
	for {
		missing, err := c.settle(ctx)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			for _, r := range c.rows() {
				m.rows = append(m.rows, r)
				m.bytes += len(r.value)
			}
			return nil
		}
		if c.fetched, err = m.blocks.values(ctx, missing, c.fetched); err != nil {
			return err
		}
	}
}

// dropOld removes what only the old formats have.
func (m *migration) dropOld(ctx context.Context) error {
	for _, prefix := range []string{m.store.keys.oldSet, m.store.keys.oldValues} {
		err := m.each(ctx, prefix, func(e query.Entry) error {
			m.remove(ds.RawKey(prefix + e.Key))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropTombstones removes the tombstones of merged blocks.
func (m *migration) dropTombstones(ctx context.Context) error {
	return m.each(ctx, m.store.keys.tombstones, func(e query.Entry) error {
		_, id, ok := splitID(e.Key)
		merged := false
		if ok {
			var err error
			if merged, err = m.store.Has(ctx, m.store.keys.block(id)); err != nil {
				return err
			}
		}
		if merged || !ok {
			m.remove(ds.RawKey(m.store.keys.tombstones + e.Key))
		}
		return nil
	})
}

// mendHeads raises heights that are lower than those of their blocks: a repair
// by the old module can leave such heads behind.
func (m *migration) mendHeads(ctx context.Context) error {
	var f frontier
	if err := f.load(ctx, m.store); err != nil {
		return err
	}
	heads, _ := f.get()
	ctx, cancel := context.WithTimeout(ctx, headsTimeout)
	defer cancel()
	for id, v := range heads {
		b, err := m.blocks.get(ctx, m.blocks.dag, id)
		if err != nil {
			m.log.Warnf("head %s cannot be read, its height is taken to be %d: %s", id.Cid(), v.Height, err)
			continue
		}
		if v.Height < b.delta.priority {
			v.Height = b.delta.priority
			m.rows = append(m.rows, row{key: m.store.keys.head(id, v), value: headRow(v)})
		}
	}
	return nil
}

// checkShutdown marks the datastore dirty when it was not closed: the old
// module may have lost track of missing blocks.
func (m *migration) checkShutdown(ctx context.Context) error {
	open, err := m.store.Has(ctx, m.store.keys.open)
	if open {
		m.put(m.store.keys.dirty, []byte{})
	}
	return err
}
