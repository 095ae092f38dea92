package crdt

import (
	"context"
	"fmt"
	"slices"

	ds "github.com/ipfs/go-datastore"
)

// A segment gets its rows before a checkpoint uses it, and loses them after the last one
// has let it go. Between the two, and if that is cut off, the spare row names it: it has
// the segments that may have rows though no checkpoint uses them.

// readSpare reads which segments are spare. Some may have come to be used since.
func (s *rowStore) readSpare(ctx context.Context) ([]segment, error) {
	b, _, err := s.getRow(ctx, s.keys.spare)
	if err != nil {
		return nil, err
	}
	r := &rowReader{rest: b}
	segments := r.segments()
	if r.failed {
		return nil, fmt.Errorf("crdt: row %s holds no list of segments: %d bytes", s.keys.spare, len(b))
	}
	return segments, nil
}

// noteSpare adds segments to those that are spare.
func (c *commit) noteSpare(ctx context.Context, segments []segment) error {
	if len(segments) == 0 {
		return nil
	}
	spare, err := c.committer.store.readSpare(ctx)
	if err != nil {
		return err
	}
	for _, seg := range segments {
		if !slices.Contains(spare, seg) {
			spare = append(spare, seg)
		}
	}
	c.setSpare(spare)
	return nil
}

func (c *commit) setSpare(segments []segment) {
	c.rows = append(c.rows, row{key: c.committer.store.keys.spare, value: appendSegments(nil, segments), remove: len(segments) == 0})
}

// sweepSegments removes the rows of spare segments, but of some that are to be used.
// Whoever calls it, or stageSegments, must be alone in it.
func (c *committer) sweepSegments(ctx context.Context, but ...segment) error {
	gone, err := c.giveUpSpare(ctx, but)
	if err != nil || len(gone) == 0 {
		return err
	}
	for _, seg := range gone {
		if err := c.removeBuckets(ctx, seg); err != nil {
			return err
		}
	}
	return c.attempt(ctx, nil, func(now *commit) error {
		spare, err := c.store.readSpare(ctx)
		now.setSpare(slices.DeleteFunc(spare, func(seg segment) bool { return slices.Contains(gone, seg) }))
		return err
	})
}

// giveUpSpare has no rows count any more of spare segments, but for some, and returns which.
// Those that have come to be used are spare no more.
func (c *committer) giveUpSpare(ctx context.Context, but []segment) (gone []segment, err error) {
	err = c.attempt(ctx, nil, func(now *commit) error {
		spare, err := c.store.readSpare(ctx)
		n, used := len(spare), now.checkpoints.now.use()
		spare = slices.DeleteFunc(spare, func(seg segment) bool { return used[seg.root] })
		if len(spare) < n {
			now.setSpare(spare)
		}
		gone = slices.DeleteFunc(slices.Clone(spare), func(seg segment) bool { return slices.Contains(but, seg) })
		for _, seg := range gone {
			now.rows = append(now.rows, presence(c.store.keys.segment(seg.root), false))
		}
		return err
	})
	return gone, err
}

func (c *committer) removeBuckets(ctx context.Context, seg segment) error {
	w := &rowWriter{committer: c}
	prefix := seg.root.under(c.store.keys.segments)
	for e, err := range c.store.rowsUnder(ctx, prefix, true, 0) {
		if err == nil {
			err = w.add(ctx, presence(ds.RawKey(prefix+e.Key), false))
		}
		if err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// stageSegments writes the rows of segments that are to be used, but for those that have
// them, and checks that the segments are those of a cover. Their pages need not be here.
func (c *committer) stageSegments(ctx context.Context, segments []segment) error {
	if err := c.sweepSegments(ctx, segments...); err != nil {
		return err
	}
	err := c.attempt(ctx, nil, func(now *commit) error { return now.noteSpare(ctx, segments) })
	if err != nil {
		return err
	}
	w := &rowWriter{committer: c}
	stages, err := c.beginStages(ctx, segments, w)
	if err == nil {
		err = c.fillStages(ctx, segments, stages)
	}
	if err != nil {
		return err
	}
	for _, s := range stages {
		if err := s.finish(ctx); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

func (c *committer) fillStages(ctx context.Context, segments []segment, stages []*segmentStage) error {
	var last *sourced[coverID]
	for at, err := range mergeSorted(coverID.compare, c.blocks.idsOf(ctx, segments)...) {
		if err == nil && last != nil && last.item == at.item {
			err = fmt.Errorf("%w: block %x is in two segments of a cover", errBadSnapshot, at.item)
		}
		if err == nil {
			err = stages[at.source].add(ctx, at.item)
		}
		if err != nil {
			return err
		}
		last = &at
	}
	return nil
}

func (c *committer) beginStages(ctx context.Context, segments []segment, to *rowWriter) ([]*segmentStage, error) {
	stages := make([]*segmentStage, len(segments))
	for i, seg := range segments {
		whole, err := c.store.Has(ctx, c.store.keys.segment(seg.root))
		if err != nil {
			return nil, err
		}
		stages[i] = &segmentStage{segment: seg, to: to, whole: whole}
	}
	return stages, nil
}

// A segmentStage is a segment that gets its rows.
type segmentStage struct {
	segment
	to    *rowWriter
	whole bool // it has them already

	at, part uint64 // the bucket, and which of its rows
	ids      []byte // of that row
}

// add adds an id. They come in order.
func (s *segmentStage) add(ctx context.Context, id coverID) error {
	if s.whole {
		return nil
	}
	bucket, part := s.bucket(id), s.part
	switch {
	case bucket != s.at:
		part = 0
	case len(s.ids) == maxBucketIDs*len(id):
		part++
	}
	if bucket != s.at || part != s.part {
		if err := s.endRow(ctx); err != nil {
			return err
		}
	}
	s.at, s.part, s.ids = bucket, part, append(s.ids, id[:]...)
	return nil
}

func (s *segmentStage) endRow(ctx context.Context) error {
	ids := s.ids
	s.ids = nil
	if len(ids) == 0 {
		return nil
	}
	return s.to.add(ctx, row{key: s.to.committer.store.keys.bucket(s.root, s.at, s.part), value: ids})
}

// finish writes what is left, and then that all is there.
func (s *segmentStage) finish(ctx context.Context) error {
	if s.whole {
		return nil
	}
	if err := s.endRow(ctx); err != nil {
		return err
	}
	return s.to.add(ctx, presence(s.to.committer.store.keys.segment(s.root), true))
}

// A rowWriter writes rows that count for nobody yet, or any more, in commits of bounded
// size.
type rowWriter struct {
	committer *committer
	rows      []row
	bytes     int
}

// maxRowsApart and maxBytesApart bound the commits of a rowWriter: local writes wait for
// one of them at most.
const (
	maxRowsApart  = 1 << 10
	maxBytesApart = 1 << 20
)

func (w *rowWriter) add(ctx context.Context, r row) error {
	w.rows = append(w.rows, r)
	if w.bytes += len(r.value); len(w.rows) < w.committer.most(maxRowsApart) && w.bytes < maxBytesApart {
		return nil
	}
	return w.flush(ctx)
}

func (w *rowWriter) flush(ctx context.Context) error {
	rows := w.rows
	w.rows, w.bytes = nil, 0
	if len(rows) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.committer.attempt(ctx, nil, func(now *commit) error {
		now.rows = append(now.rows, rows...)
		return nil
	})
}
