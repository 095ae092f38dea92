package crdt

import (
	"context"
	"fmt"
	"maps"
	"slices"

	ds "github.com/ipfs/go-datastore"
)

// A checkpoint that another one covers, which is held, is not needed any more: it is
// retired. Two side by side are both needed.
//
// From the commit that retires it on nothing rests on it. What it alone has is swept then. A
// commit names its pages in rows /w/d/<n>, and removes what is known of the checkpoint. Then
// they are removed from the DAG service, where a further time does no harm: who is killed
// amid that goes by the rows, as pages that are gone cannot be read. The rows of its segments
// go last.

// retireCovered retires the checkpoints that others cover.
func (d *drop) retireCovered(ctx context.Context) error {
	covered, err := d.checkpointsIn(ctx, d.segments)
	if err != nil || len(covered) == 0 {
		return err
	}
	rows := 0
	err = d.committer.do(ctx, func(c *commit) error {
		for _, id := range covered {
			c.checkpoints.retire(id)
		}
		rows = len(c.checkpoints.before) - len(c.checkpoints.now)
		return nil
	})
	if err == nil {
		d.done.Rows += rows
	}
	return err
}

// checkpointsIn returns the checkpoints that a cover has.
func (j *checkpointJobs) checkpointsIn(ctx context.Context, segments []segment) (covered []blockID, err error) {
	for id := range j.committer.frontier.checkpoints() {
		in, err := j.store.inSegments(ctx, segments, id)
		if err != nil {
			return nil, err
		}
		if in {
			covered = append(covered, id)
		}
	}
	return covered, nil
}

// retire lets another checkpoint, which covers it, stand for one.
func (c *checkpointsChange) retire(id blockID) {
	switch old := c.now[id]; {
	case old == nil:
	case old.idle():
		c.remove(id)
	case old.state == checkpointHeld:
		cp := *old
		cp.state = checkpointRetired
		c.set(&cp)
	}
}

// sweep removes what retired checkpoints alone have.
func (j *checkpointJobs) sweep(ctx context.Context) (done Compaction, err error) {
	retired := j.committer.frontier.checkpoints().in(checkpointRetired)
	if len(retired) == 0 {
		return done, nil
	}
	pages, err := j.pagesOfNone(ctx, retired)
	if err != nil {
		return done, fmt.Errorf("crdt: sweeping the pages of checkpoints: %w", err)
	}
	done.Bytes = j.sizeOfPages(ctx, pages)
	err = j.committer.do(ctx, func(now *commit) error {
		for id := range retired {
			now.checkpoints.remove(id)
		}
		now.namePages(pages)
		return nil
	})
	if err != nil {
		return Compaction{}, err
	}
	done.Rows = len(retired)
	return done, j.finishPages(ctx)
}

// hasPages reports whether all pages of a checkpoint are here, and must be. Those of one
// that is to be taken may be, and will be fetched again.
func (cp *checkpoint) hasPages() bool { return cp.state == checkpointTaking || !cp.neverHeld() }

// pagesOfNone returns the pages of some checkpoints that no other has. Below one that is
// lost nobody can tell any more which these are: they stay.
func (j *checkpointJobs) pagesOfNone(ctx context.Context, some checkpoints) (names []pageName, err error) {
	own := make(map[pageName]bool)
	for id, cp := range some {
		err := j.eachPage(ctx, cp, func(n pageName) { own[n] = true })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !cp.neverHeld() {
			j.log.Warnf("some pages of checkpoint %s may stay, as others are lost: %s", id.Cid(), err)
		}
		if cp.snapshot.entries == 0 { // the only page that has no ids: other datastores may have put it there, too
			delete(own, pageName{id: cp.snapshot.versions})
		}
	}
	for id, cp := range j.committer.frontier.checkpoints() {
		if some[id] != nil || !cp.hasPages() {
			continue
		}
		if err := j.eachPage(ctx, cp, func(n pageName) { delete(own, n) }); err != nil {
			return nil, fmt.Errorf("%w: of checkpoint %s: %w", errNoPage, id.Cid(), err)
		}
	}
	return j.withoutBlocks(ctx, slices.Collect(maps.Keys(own)))
}

// eachPage calls f with each page of a checkpoint.
func (j *checkpointJobs) eachPage(ctx context.Context, cp *checkpoint, f func(pageName)) error {
	ctx, end := j.blocks.whilePagesCome(ctx, nil)
	defer end()
	for n, err := range j.blocks.treePages(ctx, cp.snapshot.tree()) {
		if err != nil {
			return err
		}
		f(n)
	}
	for id, err := range j.blocks.coverPages(ctx, cp.snapshot.cover) {
		if err != nil {
			return err
		}
		f(pageName{id: id})
	}
	return nil
}

// sizeOfPages returns how large some pages are, as far as they can be read.
func (j *checkpointJobs) sizeOfPages(ctx context.Context, names []pageName) (size int64) {
	ctx, end := j.blocks.whilePagesCome(ctx, nil)
	defer end()
	for _, n := range names {
		if data, err := j.blocks.getPage(ctx, j.blocks.service, n); err == nil {
			size += int64(len(data))
		}
	}
	return size
}

// maxNamedPages is how many pages a row names.
const maxNamedPages = 8192

// namePages names pages in rows: in one at least, which says that there is something to
// finish.
func (c *commit) namePages(names []pageName) {
	for i := 0; i == 0 || i*maxNamedPages < len(names); i++ {
		some := names[i*maxNamedPages : min((i+1)*maxNamedPages, len(names))]
		c.rows = append(c.rows, row{key: c.committer.store.keys.pagesToSweep(i), value: encodePageNames(some)})
	}
}

// finishPages removes the pages that rows name, and the rows of segments that are used no
// more. The store is synced before: whoever wrote these rows may have been cut off, and pages
// that are gone must not be those of a checkpoint that a power cut brings back.
func (j *checkpointJobs) finishPages(ctx context.Context) error {
	if any, err := j.store.hasAny(ctx, j.store.keys.toSweep); !any || err != nil {
		return err
	}
	if err := j.store.Sync(ctx, j.store.keys.namespace); err != nil {
		return err
	}
	var rows []row
	for e, err := range j.store.rowsOf(ctx, j.store.keys.toSweep, 1, false) {
		if err == nil {
			err = j.removePages(ctx, e.Value)
		}
		if err != nil {
			return err
		}
		rows = append(rows, row{key: ds.RawKey(j.store.keys.toSweep + e.Key), remove: true})
	}
	if err := j.committer.sweepSegments(ctx); err != nil {
		return err
	}
	return j.committer.do(ctx, func(now *commit) error {
		now.rows = append(now.rows, rows...)
		return nil
	})
}

func (j *checkpointJobs) removePages(ctx context.Context, row []byte) error {
	names, ok := decodePageNames(row)
	if !ok {
		return fmt.Errorf("crdt: a row below %s holds no list of pages: %d bytes", j.store.keys.toSweep, len(row))
	}
	for _, n := range names {
		if err := j.blocks.removePage(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// The name of a page in a row is a byte, 1 if it is raw and else 0, and its digest.
func encodePageNames(names []pageName) (b []byte) {
	for _, n := range names {
		kind := byte(0)
		if n.raw {
			kind = 1
		}
		b = append(append(b, kind), n.id[:]...)
	}
	return b
}

func decodePageNames(b []byte) (names []pageName, ok bool) {
	const size = 1 + len(blockID{})
	for ; len(b) >= size && b[0] <= 1; b = b[size:] {
		names = append(names, pageName{blockID(b[1:size]), b[0] == 1})
	}
	return names, len(b) == 0
}
