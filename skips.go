package crdt

import (
	"context"
	"maps"
	"math/bits"
	"slices"
)

// Some blocks also link to older ones than the heads, by skip links. Whoever
// comes new then learns of far older blocks at once, and fetches a history of n
// blocks in O(log n) round trips instead of n. To old peers these are links to
// blocks that they have to fetch anyway.
//
// Heights are cut into runs of 2^k. A block that ends a run (its height ends in
// k ones) links to the ends of the runs that make it up, its lower half, its
// third quarter, its seventh eighth and so on, down to runs of 2^2: h - 2^j. From
// the end of a run all of it is at most k + 1 steps away. A block that begins a
// run (its height ends in k zeros, k > 1) links to the beginning of the larger
// one, h - 2^k. From any height the beginning of the largest run is as many
// steps away as the height has bits, and the ends of all runs before that are
// one step from those. This adds one skip link to every second block on average.
//
// The skips are the blocks that such links may be needed for: for each DAG and
// each k, the last complete block that ends a run of 2^k, and the last one that
// begins it. They belong to the holder of the commit's turn.
type skips map[skipSlot]skipTarget

type skipSlot struct {
	dagName string
	ends    bool
	k       int
}

type skipTarget struct {
	height uint64
	id     blockID
}

// minSkip is the logarithm of the least distance that a skip link is worth.
// maxSkips bounds the links of one block; those that go furthest are kept.
const (
	minSkip  = 2
	maxSkips = 16
)

// skipHeights are the heights that a block of a height skips to, the highest
// first.
func skipHeights(height uint64) []uint64 {
	if k := bits.TrailingZeros64(height); k > 0 {
		if to := height - 1<<k; k >= minSkip && to > 0 {
			return []uint64{to}
		}
		return nil
	}
	var to []uint64
	for ones, k := bits.TrailingZeros64(^height), minSkip; k < ones; k++ {
		to = append(to, height-1<<k)
	}
	return to[max(0, len(to)-maxSkips):]
}

func slotOf(dagName string, height uint64) skipSlot {
	if height%2 == 1 {
		return skipSlot{dagName, true, bits.TrailingZeros64(^height)}
	}
	return skipSlot{dagName, false, bits.TrailingZeros64(height)}
}

// targetsOf returns what a block of a height should link to beside the heads.
func (s skips) targetsOf(dagName string, height uint64, heads []blockID) (ids []blockID) {
	for _, to := range skipHeights(height) {
		slot := slotOf(dagName, to)
		switch t := s[slot]; {
		case t.height > height: // above all heads: a lie
			delete(s, slot)
		case t.height == to && !slices.Contains(heads, t.id):
			ids = append(ids, t.id)
		}
	}
	return ids
}

// maxSlots bounds the skips, whatever DAGs peers invent. Without its slots a DAG
// has fewer skip links, and the unnamed DAG, which has 128 at most, keeps its own.
const maxSlots = 4096

// note takes notice of a complete block.
func (s skips) note(dagName string, height uint64, id blockID) {
	slot := slotOf(dagName, height)
	if height < s[slot].height {
		return
	}
	s[slot] = skipTarget{height, id}
	if len(s) > maxSlots {
		s.removeAny()
	}
}

func (s skips) removeAny() {
	for slot := range s {
		if slot.dagName != "" {
			delete(s, slot)
			return
		}
	}
}

// clear removes the targets in a DAG whose blocks are gone.
func (s skips) clear(dagName string) {
	maps.DeleteFunc(s, func(slot skipSlot, _ skipTarget) bool { return slot.dagName == dagName })
}

// maxRecall bounds the heads that recall begins at, and its steps. A history takes
// two for each bit of its height; heads mostly share most of theirs.
const maxRecall = 1024

// recall finds the skips anew after a start. It reads O(log n) blocks, which
// are mostly local; until it is done, and for blocks that it cannot read, new
// blocks have fewer skip links.
func (c *committer) recall(ctx context.Context) {
	found, seen := make(skips), make(map[blockID]bool)
	tops, _ := c.frontier.tips()
	heads := tops.ids()
	for _, id := range heads[:min(len(heads), maxRecall)] {
		b := c.recallBlock(ctx, link{id: id})
		for b != nil && !seen[b.id] && len(seen) < maxRecall {
			seen[b.id] = true
			found.note(b.delta.dagName, b.delta.priority, b.id)
			b = c.recallBelow(ctx, found, b)
		}
	}
	if c.acquire(ctx) != nil {
		return
	}
	defer c.release()
	for slot, t := range found {
		if t.height <= c.skips[slot].height {
			continue // one has been noted since the start
		}
		m, err := c.store.markRow(ctx, t.id) // it may have been purged meanwhile, and have come again
		if err == nil && m.state == complete && !c.purge.hides(t.id) && !c.isCovered(ctx, t.id) {
			c.skips.note(slot.dagName, t.height, t.id)
		}
	}
}

// isCovered reports whether a cover has a block, as far as that can be found out:
// newcomers are not led below checkpoints.
func (c *committer) isCovered(ctx context.Context, id blockID) bool {
	covered, err := c.store.covered(ctx, id)
	return covered || err != nil
}

// recallBlock reads a block, unless that fails or a cover has it.
func (c *committer) recallBlock(ctx context.Context, l link) *block {
	if c.isCovered(ctx, l.id) {
		return nil
	}
	b, err := c.blocks.fetchBlock(ctx, l)
	if err != nil {
		return nil
	}
	return b
}

// recallBelow notes the heads that a block was built on, one of which ends a
// run if the block begins the next. It returns where the block skips to if it
// begins a run, or else the highest of those heads. Below a height that is a
// power of two, the beginning of the largest run, there is no target of a later
// block, but the end of the run before, which has been noted.
func (c *committer) recallBelow(ctx context.Context, found skips, b *block) (next *block) {
	heads := b.links[:len(b.links)-b.skips]
	for _, id := range heads[:min(len(heads), maxSkips)] {
		child := c.recallBlock(ctx, b.linkTo(id))
		if child == nil {
			continue
		}
		found.note(child.delta.dagName, child.delta.priority, id)
		if next == nil || child.delta.priority > next.delta.priority {
			next = child
		}
	}
	if bits.OnesCount64(b.delta.priority) == 1 {
		return nil
	}
	if b.skips > 0 && b.delta.priority%2 == 0 {
		if to := c.recallBlock(ctx, b.linkTo(b.links[len(b.links)-1])); to != nil {
			return to
		}
	}
	return next
}
