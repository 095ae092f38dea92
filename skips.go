package crdt

import (
	"context"
	"maps"
	"math/bits"
)

// A block of height h also links to the complete block of its DAG at height
// h - 2^k, where 2^k is the greatest power of two that divides h. Whoever comes
// new then learns of far older blocks at once, and fetches a history of n
// blocks in O(log² n) round trips instead of n. To old peers it is one more
// link to a block that they have to fetch anyway.
//
// The skips are the blocks that such links may be needed for: for each DAG and
// each number of trailing zero bits, the complete block whose height has that
// many and that came last. They belong to the holder of the commit's turn.
type skips map[skipSlot]skipTarget

type skipSlot struct {
	dag   string
	zeros int
}

type skipTarget struct {
	height uint64
	id     blockID
}

// skipHeight is the height that a block of height h skips to, or 0 for none.
// Where it would be h-1, the link to the head serves.
func skipHeight(h uint64) uint64 {
	if to := h & (h - 1); to != h-1 {
		return to
	}
	return 0
}

func slotOf(dagName string, height uint64) skipSlot {
	return skipSlot{dagName, bits.TrailingZeros64(height)}
}

// links returns what a block of a height should link to beside the heads.
func (s skips) links(dagName string, height uint64) []blockID {
	to := skipHeight(height)
	if t := s[slotOf(dagName, to)]; to > 0 && t.height == to {
		return []blockID{t.id}
	}
	return nil
}

// add notes a complete block.
func (s skips) add(dagName string, height uint64, id blockID) {
	s[slotOf(dagName, height)] = skipTarget{height, id}
}

// forget drops the targets in a DAG whose blocks are gone.
func (s skips) forget(dagName string) {
	maps.DeleteFunc(s, func(slot skipSlot, _ skipTarget) bool { return slot.dag == dagName })
}

// recall finds the skips anew after a start, from the heads down along the
// links that go furthest. It reads O(log² n) blocks, which are mostly local;
// until it is done, and for blocks that it cannot read, new blocks have fewer
// skip links.
func (c *committer) recall(ctx context.Context) {
	found := make(skips)
	heads, _ := c.frontier.get()
	for id := range heads {
		for steps := 0; steps < 2*64; steps++ {
			next, ok := c.lowestLink(ctx, found, id)
			if !ok {
				break
			}
			id = next
		}
	}
	if c.acquire(ctx) != nil {
		return
	}
	defer c.release()
	for slot, t := range found {
		if c.skips[slot].height < t.height {
			c.skips[slot] = t
		}
	}
}

// lowestLink notes a block, and returns the lowest of those it links to.
func (c *committer) lowestLink(ctx context.Context, found skips, id blockID) (lowest blockID, ok bool) {
	b, err := c.blocks.get(ctx, c.blocks.dag, id)
	if err != nil {
		return lowest, false
	}
	if h := b.delta.priority; found[slotOf(b.delta.dag, h)].height < h {
		found.add(b.delta.dag, h, id)
	}
	// Links to heads come first, and the skip link, if there is one, is last.
	if len(b.links) == 0 {
		return lowest, false
	}
	return b.links[len(b.links)-1], true
}
