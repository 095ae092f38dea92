package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"sort"
	"sync/atomic"
)

// The ids of a segment stand in rows as well, so that one can be looked up. They are
// cut into buckets, by the first bits of the id, and all but a few have one row. It is
// easy to make blocks that fall into one bucket: then that has many rows, and what else
// falls into it takes longer to be found.
const (
	bucketIDs    = 256     // in a bucket, at most, on average
	maxBucketIDs = 4 << 10 // in a row: 64 KiB
)

// bucketBits is how many bits of an id say in which bucket of a segment it is.
func (seg segment) bucketBits() int { return bits.Len64((seg.ids - 1) / bucketIDs) }

func (seg segment) bucket(id coverID) uint64 {
	return binary.BigEndian.Uint64(id[:]) >> (64 - seg.bucketBits()) // by 64: 0
}

// inSegments reports whether a block is in some segments, all of whose rows are there.
func (s *rowStore) inSegments(ctx context.Context, segments []segment, id blockID) (bool, error) {
	for _, seg := range segments {
		if found, err := s.inSegment(ctx, seg, id.inCover()); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

func (s *rowStore) inSegment(ctx context.Context, seg segment, id coverID) (bool, error) {
	for part := uint64(0); ; part++ {
		ids, _, err := s.getRow(ctx, s.keys.bucket(seg.root, seg.bucket(id), part))
		if err != nil {
			return false, fmt.Errorf("crdt: looking up block %x in a cover: %w", id, err)
		}
		at := func(i int) coverID { return coverID(ids[i*len(coverID{}):]) }
		n := len(ids) / len(coverID{})
		i, found := sort.Find(n, func(i int) int { return id.compare(at(i)) })
		if found || i < maxBucketIDs {
			return found, nil
		}
	}
}

// segmentRows yields all ids in the rows of a segment, in any order.
func (s *rowStore) segmentRows(ctx context.Context, seg segment) iter.Seq2[coverID, error] {
	return func(yield func(coverID, error) bool) {
		for e, err := range s.rowsUnder(ctx, seg.root.under(s.keys.segments), false, 0) {
			if err != nil {
				yield(coverID{}, err)
				return
			}
			for id := range eachCoverID(e.Value) {
				if !yield(id, nil) {
					return
				}
			}
		}
	}
}

// maxSmallIDs is how many ids of small segments are kept in memory, of all covers
// that are held: 1 MiB.
const maxSmallIDs = 64 << 10

// A coverIndex knows the covers of the checkpoints that are held, and of those that were
// until a later one came to cover them. The blocks in them are complete. Anybody may ask
// it, and the holder of the turn changes it.
type coverIndex struct {
	held atomic.Pointer[[]*heldSegment] // nil: none; the slice is never changed
}

// A heldSegment is one of a cover that is held.
type heldSegment struct {
	segment
	small bool                      // its ids are kept in memory
	known atomic.Pointer[[]coverID] // these, once somebody has asked; sorted
}

func (c *coverIndex) none() bool { return c.held.Load() == nil }

// set replaces the segments. Rows of those that are not among them any more are removed
// afterwards.
func (c *coverIndex) set(segments []segment) {
	before := c.bySegment()
	bySize := slices.SortedFunc(slices.Values(segments), segment.compare)
	var held []*heldSegment
	free := uint64(maxSmallIDs)
	for _, seg := range slices.Compact(bySize) {
		small := seg.ids <= free
		if small {
			free -= seg.ids
		}
		h := before[seg.root]
		if h == nil || h.small != small {
			h = &heldSegment{segment: seg, small: small}
		}
		held = append(held, h)
	}
	if len(held) == 0 {
		c.held.Store(nil)
		return
	}
	c.held.Store(&held)
}

func (c *coverIndex) bySegment() map[blockID]*heldSegment {
	all := make(map[blockID]*heldSegment)
	if held := c.held.Load(); held != nil {
		for _, h := range *held {
			all[h.root] = h
		}
	}
	return all
}

// covered reports whether a block is in the cover of a checkpoint that is or was held.
func (s *rowStore) covered(ctx context.Context, id blockID) (bool, error) {
	for held := s.covers.held.Load(); held != nil; {
		found, err := s.inHeld(ctx, *held, id.inCover())
		now := s.covers.held.Load()
		if found || now == held {
			return found, err
		}
		held = now // there may have been no rows left
	}
	return false, nil
}

func (s *rowStore) inHeld(ctx context.Context, held []*heldSegment, id coverID) (found bool, err error) {
	for _, h := range held {
		if h.small {
			found, err = s.inSmall(ctx, h, id)
		} else {
			found, err = s.inSegment(ctx, h.segment, id)
		}
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

func (s *rowStore) inSmall(ctx context.Context, h *heldSegment, id coverID) (bool, error) {
	known := h.known.Load()
	if known == nil {
		ids, err := s.loadSegment(ctx, h.segment)
		if err != nil {
			return false, err
		}
		known = &ids
		h.known.Store(known)
	}
	_, found := slices.BinarySearchFunc(*known, id, coverID.compare)
	return found, nil
}

func (s *rowStore) loadSegment(ctx context.Context, seg segment) (ids []coverID, err error) {
	for id, err := range s.segmentRows(ctx, seg) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if uint64(len(ids)) != seg.ids {
		return nil, fmt.Errorf("crdt: of segment %s of a cover there are %d ids, not %d", seg.root.Cid(), len(ids), seg.ids)
	}
	return slices.SortedFunc(slices.Values(ids), coverID.compare), nil
}
