package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	logging "github.com/ipfs/go-log/v2"
)

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
	mixed  bool // the store has records of formatVersion beside the old rows
	losers bool // it may have rows of losers

	rows    []row              // of the next batch
	records map[string]*record // changed by it
	bytes   int                // of values in it
	seen    int
}

// migrate brings a store of an older format to formatVersion. It touches nothing in one
// of a format that is not known.
func migrate(ctx context.Context, store *rowStore, blocks *blockStore, log logging.StandardLogger) error {
	version, stamp, err := storedVersion(ctx, store)
	if err != nil {
		return err
	}
	if err := store.redo(ctx); err != nil {
		return fmt.Errorf("crdt: finishing an interrupted write: %w", err)
	}
	m := newMigration(store, blocks, log)
	switch version {
	case coveredVersion:
		return nil
	case formatVersion:
		err = m.mix(ctx, stamp)
	default:
		err = m.run(ctx, version)
	}
	if err != nil {
		return fmt.Errorf("crdt: migrating the store from format %d: %w", version, err)
	}
	return stampVersion(ctx, store, ownRow)
}

func newMigration(store *rowStore, blocks *blockStore, log logging.StandardLogger) *migration {
	return &migration{store: store, blocks: blocks, log: log, records: make(map[string]*record)}
}

// run takes the steps in an order in which each may be begun again: a version
// that has a tombstone goes before its tombstone does.
func (m *migration) run(ctx context.Context, version uint64) error {
	steps := []func(context.Context) error{m.moveVersions, m.electAgain, m.removeOld, m.removeTombstones, m.removeClaims, m.mendHeads, m.checkShutdown}
	if version > 0 {
		steps = slices.Delete(steps, 1, 2) // its winners are right
	}
	if err := m.takeSteps(ctx, steps); err != nil {
		return err
	}
	if m.seen > 0 {
		m.log.Infof("store migrated from format %d to %d: %d rows", version, formatVersion, m.seen)
	}
	return nil
}

func (m *migration) takeSteps(ctx context.Context, steps []func(context.Context) error) (err error) {
	if m.losers, err = m.store.hasAny(ctx, m.store.keys.losers); err != nil {
		return err
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := m.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// each calls f with the keys of the rows under a prefix, and writes what f queues.
func (m *migration) each(ctx context.Context, prefix string, f func(query.Entry) error) error {
	return m.eachOf(ctx, m.store.rowsUnder(ctx, prefix, true, 0), f)
}

func (m *migration) eachOf(ctx context.Context, rows iter.Seq2[query.Entry, error], f func(query.Entry) error) error {
	for e, err := range rows {
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
		if m.seen++; m.seen%migrationProgress == 0 {
			m.log.Infof("migrating the store: %d rows so far", m.seen)
		}
		if err := m.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) flushIfFull(ctx context.Context) error {
	if len(m.rows) < migrationBatch && m.bytes < migrationBytes {
		return nil
	}
	return m.flush(ctx)
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
	m.bytes += len(value)
}

func (m *migration) remove(key ds.Key) { m.rows = append(m.rows, row{key: key, remove: true}) }

// moveVersions makes records of the live versions.
func (m *migration) moveVersions(ctx context.Context) error {
	return m.each(ctx, m.store.keys.oldSet, func(e query.Entry) error {
		key, id, ok := splitID(e.Key)
		if !ok || !isKey(key) {
			m.log.Warnf("migration leaves out %q: it is not a version of a key", e.Key)
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
	if r == nil {
		r, err = m.firstVersion(ctx, key, id)
	} else {
		err = m.furtherVersion(ctx, key, id, r)
	}
	if err == nil && m.records[key] == nil {
		m.records[key] = r
		m.bytes += len(r.value)
	}
	return err
}

func (m *migration) firstVersion(ctx context.Context, key string, id blockID) (*record, error) {
	r, err := m.oldRecord(ctx, key, id)
	if err == nil && m.losers { // Downgrade leaves the rows of losers that have their values
		r.losers, err = m.store.Has(ctx, m.store.keys.loser(key, id))
		r.keepValue = r.losers
	}
	return r, err
}

func (m *migration) furtherVersion(ctx context.Context, key string, id blockID, r *record) error {
	if !r.unresolved && r.id == id {
		return nil
	}
	if !r.unresolved {
		var kept []byte
		if r.keepValue {
			kept = (&loser{version: r.version}).encode()
		}
		if err := m.lose(ctx, key, r.id, kept); err != nil {
			return err
		}
		r.id, r.losers, r.low, r.unresolved, r.keepValue = blockID{}, true, false, true, false
	}
	if m.mixed {
		if err := m.contest(ctx, key, id, r); err != nil {
			return err
		}
	}
	return m.lose(ctx, key, id, nil)
}

func (m *migration) record(ctx context.Context, key string) (*record, error) {
	if r := m.records[key]; r != nil {
		return r, nil
	}
	b, found, err := m.store.getRow(ctx, m.store.keys.record(key))
	if err != nil || !found {
		return nil, err
	}
	return decodeRecord(b)
}

// oldRecord reads the value and the priority of a key from the old rows, or,
// if the old module was cut off before it wrote them, from the block.
func (m *migration) oldRecord(ctx context.Context, key string, id blockID) (*record, error) {
	value, found, err := m.store.getRow(ctx, ds.RawKey(m.store.keys.oldValues+key+"/v"))
	if err != nil {
		return nil, err
	}
	p, foundP, err := m.store.getRow(ctx, ds.RawKey(m.store.keys.oldValues+key+"/p"))
	if err != nil {
		return nil, err
	}
	if next, n := binary.Uvarint(p); found && foundP && n > 0 {
		return &record{version: version{id: id, priority: next - 1, value: value}}, nil // of 0: MaxUint64
	}
	b, err := m.blocks.getMerged(ctx, id)
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
	if k.winner == winnerKnown {
		k.setLoser(k.win.id, &loser{version: version{id: k.win.id}, unranked: true})
	}
	k.undecide()
	return m.queueRows(ctx, c)
}

// queueRows queues the rows of a change once it is known who wins.
func (m *migration) queueRows(ctx context.Context, c *setChange) error {
	err := m.blocks.withValues(ctx, func(values map[versionName]*loser) error {
		c.fetched = values
		return c.electWinners(ctx)
	})
	if err != nil {
		return err
	}
	for _, r := range c.rows() {
		m.rows = append(m.rows, r)
		m.bytes += len(r.value)
	}
	return nil
}

// removeOld removes what only the old formats have.
func (m *migration) removeOld(ctx context.Context) error {
	for _, prefix := range []string{m.store.keys.oldSet, m.store.keys.oldValues} {
		if err := m.removeUnder(ctx, prefix); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) removeUnder(ctx context.Context, prefix string) error {
	return m.each(ctx, prefix, func(e query.Entry) error {
		m.remove(ds.RawKey(prefix + e.Key))
		return nil
	})
}

// removeTombstones removes the tombstones of merged blocks.
func (m *migration) removeTombstones(ctx context.Context) error {
	return m.each(ctx, m.store.keys.tombstones, func(e query.Entry) error {
		key, id, ok := splitID(e.Key)
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
		if ok && m.losers { // Downgrade left it, with its value
			m.remove(m.store.keys.loser(key, id))
			m.remove(m.store.keys.claim(versionName{key, id}))
		}
		return nil
	})
}

// removeClaims removes what Downgrade left of claims about blocks that the old module
// has merged since. What these gave to the keys is read from them.
func (m *migration) removeClaims(ctx context.Context) error {
	return m.each(ctx, m.store.keys.claims, func(e query.Entry) error {
		name, _, claim := strings.Cut(e.Key[1:], "/")
		id, ok := parseBlockID(name)
		if !ok {
			return nil
		}
		if merged, err := m.store.Has(ctx, m.store.keys.block(id)); err != nil || !merged {
			return err
		}
		row := ds.RawKey(m.store.keys.claims + e.Key)
		m.remove(row)
		if !claim {
			return nil
		}
		return m.readAgain(ctx, row, id)
	})
}

// readAgain forgets all that is known of a claimed version but its block.
func (m *migration) readAgain(ctx context.Context, claim ds.Key, id blockID) error {
	b, err := m.store.Get(ctx, claim)
	if err != nil {
		return err
	}
	_, key, err := decodeClaim(b)
	if err != nil {
		return fmt.Errorf("%s: %w", claim, err)
	}
	return m.replaceLive(ctx, key, id, &loser{version: version{id: id}, unranked: true})
}

// mendHeads raises heights that are lower than those of their blocks: a repair
// by the old module can leave such heads behind. And it takes the heads of named
// DAGs from among those of the unnamed one, where v0.6.8 has them.
func (m *migration) mendHeads(ctx context.Context) error {
	heads, _, err := m.store.loadTips(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, headsTimeout)
	defer cancel()
	for id, v := range heads {
		mended := v
		if b, err := m.blocks.getMerged(limited, id); err == nil {
			mended = v.mended(b.delta)
		} else {
			m.log.Warnf("head %s cannot be read, its height is taken to be %d: %s", id.Cid(), v.Height, err)
		}
		if mended.DAGName != "" {
			m.remove(m.store.keys.head(id, HeadValue{})) // it may be among both
		}
		if mended != v {
			m.put(m.store.keys.head(id, mended), headRow(mended))
		}
		if err := m.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mended is what a head should be by its block. One of a DAG whose name cannot be
// stays where it is.
func (v HeadValue) mended(d *deltaContent) HeadValue {
	v.Height = max(v.Height, d.priority)
	if checkDAGName(d.dagName) == nil {
		v.DAGName = d.dagName
	}
	return v
}

// checkShutdown marks the datastore dirty when it was not closed: the old
// module may have lost track of missing blocks.
func (m *migration) checkShutdown(ctx context.Context) error {
	open, err := m.store.Has(ctx, m.store.keys.open)
	if !open || err != nil {
		return err
	}
	return m.markDirty(ctx)
}
