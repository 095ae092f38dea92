package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"sort"
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
