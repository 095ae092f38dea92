package crdt

import (
	"cmp"
	"context"
	"errors"
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
//  1. Values that stand in the blocks alone are kept (keeplosers.go).
//  2. A commit removes the marks of the blocks, which the cover stands for, and names
//     them in the row /w/dropping. From then on nobody looks for them here.
//  3. The store is synced: a power cut must not undo this, when the blocks are gone.
//  4. The blocks are removed from the DAG service, once nobody reads values from them any
//     more. To do so twice does no harm.
//  5. That row goes.
type drop struct {
	*keeper
	below    checkpoints // what these cover is dropped
	segments []segment   // of these
	reader   briefReader
	values   keptValues
	pages    map[blockID]bool // blocks that stay in the DAG service, as they are pages too; nil: not known yet
	done     Compaction
	unread   error // of a page that could not be read

	// The next portion:
	ids  []blockID
	size int64 // of the blocks
}

func (k *keeper) newDrop(below checkpoints) *drop {
	return &drop{
		keeper:   k,
		below:    below,
		segments: below.segments(),
		reader:   briefReader{blocks: k.blocks},
	}
}

// drop drops what those checkpoints of a DAG cover that were held at some time. What lost
// pages would tell of stays until a further one.
func (k *keeper) drop(ctx context.Context, dagName string, at time.Time) (done Compaction, unread, err error) {
	d := k.newDrop(k.committer.frontier.checkpoints().heldAt(dagName, at))
	if len(d.below) > 0 {
		for _, do := range []func(context.Context) error{d.dropBlocks, d.retireCovered} {
			if err := do(ctx); err != nil {
				return d.done, d.unread, err
			}
		}
	}
	swept, err := k.sweep(ctx)
	d.done.add(swept)
	if errors.Is(err, errNoPage) && ctx.Err() == nil {
		d.unread, err = cmp.Or(d.unread, err), nil
	}
	return d.done, d.unread, err
}

// heldAt returns the checkpoints of a DAG that were held at some time.
func (all checkpoints) heldAt(dagName string, at time.Time) checkpoints {
	return all.of(dagName).where(func(cp *checkpoint) bool { return cp.state == checkpointHeld && !cp.since.After(at) })
}

// dropBlocks drops the blocks that have a row and are covered, once no value stands in them
// alone.
func (d *drop) dropBlocks(ctx context.Context) error {
	if err := d.keepLosers(ctx); err != nil {
		return err
	}
	for r, err := range d.store.blockRows(ctx, d.store.keys.blocks, true) {
		if err == nil {
			err = d.addIf(ctx, r.id)
		}
		if err != nil {
			return err
		}
	}
	return d.remove(ctx)
}

// addIf adds a block to the portion if it is complete and covered, and drops that once it
// is large enough.
func (d *drop) addIf(ctx context.Context, id blockID) error {
	in, err := d.store.inSegments(ctx, d.segments, id)
	if err != nil || !in || d.values.staying[id] {
		return err
	}
	m, err := d.store.markRow(ctx, id)
	if err != nil || m.state != complete {
		return err
	}
	raw, err := d.reader.get(ctx, id)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		raw = nil // it is lost: see keepLost
	}
	d.ids, d.size = append(d.ids, id), d.size+int64(len(raw))
	if len(d.ids) < d.committer.most(maxGroupBlocks) {
		return nil
	}
	return d.remove(ctx)
}

// remove drops the portion.
func (d *drop) remove(ctx context.Context) error {
	if len(d.ids) == 0 {
		return nil
	}
	if d.pages == nil {
		var err error
		if d.pages, err = d.pageIDs(ctx); err != nil {
			return err
		}
	}
	if err := d.nameBlocks(ctx); err != nil {
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
	err := d.committer.do(ctx, func(c *commit) error {
		ids = slices.DeleteFunc(slices.Clone(d.ids), c.dag.isTip)
		for _, id := range ids {
			c.rows = append(c.rows, row{key: d.store.keys.block(id), remove: true})
		}
		c.rows = append(c.rows, row{key: d.store.keys.dropping, value: encodeIDs(withoutPages(ids, d.pages))})
		return nil
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
func (j *checkpointJobs) finishDrop(ctx context.Context) error {
	_, err := j.finishBlocks(ctx)
	if err == nil {
		err = j.finishPages(ctx)
	}
	return err
}

// finishBlocks removes the blocks that the row /w/dropping names, and then the row.
func (j *checkpointJobs) finishBlocks(ctx context.Context) (removed int, err error) {
	key := j.store.keys.dropping
	ids, found, err := j.store.idsIn(ctx, key)
	if err != nil || !found {
		return 0, err
	}
	if removed, err = j.removeUnmarked(ctx, ids); err != nil {
		return removed, err
	}
	return removed, j.committer.do(ctx, func(now *commit) error {
		now.rows = append(now.rows, row{key: key, remove: true})
		return nil
	})
}

// removeUnmarked removes blocks from the DAG service whose marks are gone, and returns how
// many. The store is synced before, also if who removed the marks was cut off: a power cut must
// not bring these back. Whoever is about to read values from the blocks may do so.
func (j *checkpointJobs) removeUnmarked(ctx context.Context, ids []blockID) (removed int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	if err := j.store.Sync(ctx, j.store.keys.namespace); err != nil {
		return 0, err
	}
	if err := j.blocks.valueReads.wait(ctx); err != nil {
		return 0, err
	}
	return j.blocks.removeAll(ctx, ids)
}

// finishCutOff goes on, at the start, with drops and purges that the end of the last run
// has cut off.
func (c *checkpointer) finishCutOff(ctx context.Context) (did bool, err error) {
	if c.finished {
		return false, nil
	}
	err = c.do(ctx, "", func(ctx context.Context) error { _, err := c.sweep(ctx); return err })
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
