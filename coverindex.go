package crdt

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
)

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
	small    bool                      // its ids are kept in memory
	inMemory atomic.Pointer[[]coverID] // these, once somebody has asked; sorted
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
	known := h.inMemory.Load()
	if known == nil {
		ids, err := s.loadSegment(ctx, h.segment)
		if err != nil {
			return false, err
		}
		known = &ids
		h.inMemory.Store(known)
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

// A coverMemo asks what is covered, and remembers what has been asked last: a block has
// many versions.
type coverMemo struct {
	ask   func(context.Context, blockID) (bool, error)
	known map[blockID]bool
}

// maxRemembered is how many answers a coverMemo remembers, in up to 20 MiB. With fewer than
// there are blocks almost each look-up is one in the store: with an eighth of these, a
// newcomer took a minute to check ten million versions of 100,000 blocks.
const maxRemembered = 256 << 10

func (m *coverMemo) has(ctx context.Context, id blockID) (bool, error) {
	covered, known := m.known[id]
	if known {
		return covered, nil
	}
	covered, err := m.ask(ctx, id)
	if err != nil {
		return false, err
	}
	if len(m.known) == maxRemembered {
		clear(m.known)
	}
	setIn(&m.known, id, covered)
	return covered, nil
}
