package crdt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Compaction says what a call of Compact has dropped.
type Compaction struct {
	Blocks int   // removed from the DAG service
	Rows   int   // removed from the store
	Bytes  int64 // of the blocks, and of what older checkpoints had in the DAG service
}

// Compact drops the history that checkpoints of the unnamed DAG cover, as far as this
// replica holds any: it removes the blocks below them from the DAG service, and what
// the store has for each. Values that stand in these blocks alone are kept in the
// store. What older checkpoints had in the DAG service goes as well. No pair changes.
// Without a checkpoint it does nothing: see [Datastore.Checkpoint].
//
// Once no replica has the blocks any more, peers that lack them take a checkpoint in
// their place. Those that cannot, because they run the old module or set
// Options.WalkHistory, do not catch up any more.
//
// It may run beside reads and writes, for as long as it takes. When it is cut off, what
// has been dropped is counted, and a further call goes on. A block that is lost is dropped
// as well, as the checkpoint has its values. It must not be called by a hook.
func (d *Datastore) Compact(ctx context.Context) (Compaction, error) { return d.compact(ctx, "") }

// CompactDAG does what Compact does for the DAG of a name.
func (m *MerkleCRDT) CompactDAG(ctx context.Context, dagName string) (Compaction, error) {
	return m.compact(ctx, dagName)
}

func (d *Datastore) compact(ctx context.Context, dagName string) (done Compaction, err error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return Compaction{}, err
	}
	defer end(&err)
	if err := checkDAGName(dagName); err != nil {
		return Compaction{}, err
	}
	err = d.checkpointer.do(ctx, dagName, func(ctx context.Context) error {
		var unread error
		done, unread, err = d.checkpointer.drop(ctx, dagName, time.Now())
		return cmp.Or(err, unread)
	})
	return done, err
}

// A drop removes the blocks below some checkpoints, a portion at a time. Whoever is
// killed amid one goes on where it was, and loses nothing:
//
//  1. One commit, or several, keeps the values of live versions that stand in the
//     blocks. The last one removes their marks, which the cover stands for, and names
//     the blocks in the row /w/dropping. From then on nobody looks for them here.
//  2. The store is synced: a power cut must not undo this, when the blocks are gone.
//  3. The blocks are removed from the DAG service, once nobody reads values from them any
//     more. To do so twice does no harm.
//  4. That row goes.
//
// A version that is not live will not be live again: whoever finds that need not look
// once more.
type drop struct {
	*checkpointer
	below  []*checkpoint // what these cover is dropped
	reader briefReader
	lost   map[blockID]bool // blocks that it could not read
	done   Compaction
	unread error // of a page that could not be read

	// The next portion:
	ids    []blockID
	size   int64       // of the blocks
	values []versionOf // that may still have to be kept
	bytes  int         // in values
}

// A versionOf is a version with its key.
type versionOf struct {
	key string
	version
}

// What one commit of a drop looks at: writes wait for it.
const (
	maxKeptVersions = 256
	maxKeptBytes    = 1 << 20
)

func (c *checkpointer) newDrop(below []*checkpoint) *drop {
	return &drop{checkpointer: c, below: below, reader: briefReader{blocks: c.blocks}}
}

// drop drops what those checkpoints of a DAG cover that were held at some time. What lost
// pages would tell of stays until a further one.
func (c *checkpointer) drop(ctx context.Context, dagName string, at time.Time) (done Compaction, unread, err error) {
	d := c.newDrop(c.committer.frontier.checkpoints().heldAt(dagName, at))
	if len(d.below) > 0 {
		if err := d.dropBlocks(ctx); err != nil {
			return d.done, d.unread, err
		}
		if err := d.supersede(ctx, segmentsOf(slices.Values(d.below))); err != nil {
			return d.done, d.unread, err
		}
	}
	released, err := c.release(ctx)
	d.done.add(released)
	if errors.Is(err, errNoPage) && ctx.Err() == nil {
		d.unread, err = cmp.Or(d.unread, err), nil
	}
	return d.done, d.unread, err
}

// heldAt returns the checkpoints of a DAG that were held at some time.
func (all checkpoints) heldAt(dagName string, at time.Time) (held []*checkpoint) {
	for _, cp := range all {
		if cp.tip.DAGName == dagName && cp.canDropBelow() && !cp.since.After(at) {
			held = append(held, cp)
		}
	}
	return held
}

// canDropBelow reports whether what a checkpoint covers may be dropped: not if it may be
// wrong.
func (cp *checkpoint) canDropBelow() bool { return cp.state == checkpointHeld && !cp.disputed }

// dropBlocks drops the blocks that have a row and are covered.
func (d *drop) dropBlocks(ctx context.Context) error {
	below := segmentsOf(slices.Values(d.below))
	for e, err := range d.store.rowsOf(ctx, d.store.keys.blocks, 1, true) {
		if err != nil {
			return err
		}
		if _, id, ok := splitID(e.Key); ok {
			if err := d.addIf(ctx, id, below); err != nil {
				return err
			}
		}
	}
	if err := d.remove(ctx); err != nil {
		return err
	}
	return d.dropLost(ctx)
}

// addIf adds a block that is complete and in some segments.
func (d *drop) addIf(ctx context.Context, id blockID, below []segment) error {
	in, err := d.store.inSegments(ctx, below, id)
	if err != nil || !in {
		return err
	}
	m, err := d.store.markRow(ctx, id)
	if err != nil || m.state != complete {
		return err
	}
	return d.add(ctx, id)
}

// add adds a block to the portion, and drops that once it is large enough.
func (d *drop) add(ctx context.Context, id blockID) error {
	b, err := d.reader.getMerged(ctx, id)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return d.lose(ctx, id)
	}
	for key, l := range b.versions() {
		if err := d.addValue(ctx, versionOf{key, l.version}); err != nil {
			return err
		}
	}
	return d.addBlock(ctx, id, len(b.raw))
}

// addBlock adds a block whose values have been added.
func (d *drop) addBlock(ctx context.Context, id blockID, size int) error {
	d.ids, d.size = append(d.ids, id), d.size+int64(size)
	if len(d.ids) < d.committer.most(maxGroupBlocks) {
		return nil
	}
	return d.remove(ctx)
}

// addValue adds a value that may have to be kept.
func (d *drop) addValue(ctx context.Context, v versionOf) error {
	if needed, err := d.store.needsBlock(ctx, versionName{v.key, v.id}); !needed || err != nil {
		return err
	}
	d.values = append(d.values, v)
	if d.bytes += len(v.value); len(d.values) < d.committer.most(maxKeptVersions) && d.bytes < maxKeptBytes {
		return nil
	}
	return d.keep(ctx, nil)
}

// needsBlock reports whether a version may be live, and its value stand in its block alone.
// Most are dead, and this is found out while nobody waits. A version that has moved between
// the record and the rows of losers meanwhile is in neither: the record has changed then.
func (s *rowStore) needsBlock(ctx context.Context, n versionName) (bool, error) {
	record, found, err := s.getRow(ctx, s.keys.record(n.key))
	if err != nil || !found {
		return false, err
	}
	switch r, err := decodeRecord(record); {
	case err != nil:
		return false, fmt.Errorf("%w of %s", err, n.key)
	case r.id == n.id:
		return !r.keepValue, nil
	case !r.losers:
		return false, nil
	}
	row, found, err := s.getRow(ctx, s.keys.loser(n.key, n.id))
	if err != nil {
		return false, err
	}
	if found {
		l, err := decodeLoser(n.id, row)
		return err == nil && !l.keepValue, err
	}
	now, _, err := s.getRow(ctx, s.keys.record(n.key))
	return !bytes.Equal(now, record), err
}

// keep has the store keep the values of the portion, and does what else there is to do
// in the last commit.
func (d *drop) keep(ctx context.Context, last func(*commit)) error {
	err := d.committer.do(ctx, func(c *commit) error {
		if err := c.set.loadAhead(ctx, keysBy(d.values, func(v versionOf) string { return v.key })); err != nil {
			return err
		}
		for _, v := range d.values {
			if err := c.set.keepValue(ctx, v); err != nil {
				return err
			}
		}
		if last != nil {
			last(c)
		}
		return nil
	})
	if err == nil {
		d.values, d.bytes = d.values[:0], 0
	}
	return err
}

// keepValue stores the value of a version, if it is live, for the case that it loses:
// its block will not be here.
func (c *setChange) keepValue(ctx context.Context, v versionOf) error {
	k, err := c.load(ctx, v.key)
	if err != nil {
		return err
	}
	l, err := c.find(ctx, k, v.id)
	if err != nil || l == nil || l.keepValue {
		return err
	}
	v.keepValue = true
	if k.wonBy(v.id) {
		k.win = &v.version
	} else {
		k.setLoser(v.id, &loser{version: v.version, known: true})
	}
	return nil
}

// keepLosing stores the value of a version, if it is live and loses.
func (c *setChange) keepLosing(ctx context.Context, v versionOf) error {
	k, err := c.load(ctx, v.key)
	if err != nil || k.wonBy(v.id) || !k.mayHaveLosers {
		return err
	}
	return c.keepValue(ctx, v)
}

// remove drops the portion.
func (d *drop) remove(ctx context.Context) error {
	if len(d.ids) == 0 {
		return nil
	}
	err := d.nameBlocks(ctx)
	if err == nil {
		err = d.store.Sync(ctx, d.store.keys.namespace)
	}
	if err == nil {
		err = d.blocks.valueReads.wait(ctx)
	}
	if err != nil {
		return err
	}
	removed, err := d.finishBlocks(ctx)
	if d.done.Blocks += removed; err != nil {
		return err
	}
	d.done.Bytes += d.size
	d.ids, d.size = d.ids[:0], 0
	return nil
}

// nameBlocks makes the last commit before blocks are removed.
func (d *drop) nameBlocks(ctx context.Context) error {
	if err := d.committer.raiseFormat(ctx); err != nil {
		return err
	}
	var ids []blockID
	err := d.keep(ctx, func(c *commit) {
		ids = slices.DeleteFunc(slices.Clone(d.ids), c.dag.isTip)
		for _, id := range ids {
			c.rows = append(c.rows, row{key: d.store.keys.block(id), remove: true})
		}
		c.rows = append(c.rows, row{key: d.store.keys.dropping, value: encodeIDs(ids)})
	})
	if err == nil {
		d.done.Rows += len(ids)
	}
	return err
}

// isTip reports whether a block is a head, or is to be one. None of these is covered,
// unless somebody has put it there by hand.
func (c *dagChange) isTip(id blockID) bool {
	_, head := c.heads.now[id]
	_, pending := c.pendingHeads.now[id]
	return head || pending
}

func (c *Compaction) add(o Compaction) {
	c.Blocks, c.Rows, c.Bytes = c.Blocks+o.Blocks, c.Rows+o.Rows, c.Bytes+o.Bytes
}

// finishDrop removes what a drop has named and not removed, which was cut off.
func (c *checkpointJobs) finishDrop(ctx context.Context) error {
	_, err := c.finishBlocks(ctx)
	if err == nil {
		err = c.finishPages(ctx)
	}
	return err
}

// finishBlocks removes the blocks that the row /w/dropping names, and then the row.
func (c *checkpointJobs) finishBlocks(ctx context.Context) (removed int, err error) {
	key := c.store.keys.dropping
	ids, found, err := c.store.idsIn(ctx, key)
	if err != nil || !found {
		return 0, err
	}
	if removed, err = c.blocks.removeAll(ctx, ids); err != nil {
		return removed, err
	}
	return removed, c.committer.do(ctx, func(now *commit) error {
		now.rows = append(now.rows, row{key: key, remove: true})
		return nil
	})
}

// finishCutOff goes on, at the start, with drops and purges that the end of the last run
// has cut off.
func (c *checkpointer) finishCutOff(ctx context.Context) (did bool, err error) {
	if c.finished {
		return false, nil
	}
	err = c.do(ctx, "", func(ctx context.Context) error { _, err := c.release(ctx); return err })
	if err != nil && !errors.Is(err, errNoPage) {
		return false, err
	}
	for _, cp := range c.committer.frontier.checkpoints() {
		if cp.state != checkpointPurged {
			continue
		}
		if _, err := c.purge(ctx, cp.tip.DAGName); err != nil { // there may be nothing left to do
			return false, err
		}
	}
	c.finished = true
	return false, nil
}
