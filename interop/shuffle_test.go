package interop

import (
	"math/rand/v2"
	"slices"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// oneByOne are the ways to show blocks, given parents first, to a replica so that it merges
// one after the other.
func oneByOne(blocks []*dagBlock, seed uint64) []shuffle {
	rng := rand.New(rand.NewPCG(seed, 8))
	shuffled := slices.Clone(blocks)
	rng.Shuffle(len(blocks), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	return []shuffle{
		{"as created", downFrom(blocks, blocks, rng)},
		{"from the heads", downFrom(blocks, headsOf(blocks), rng)},
		{"announced at random", downFrom(blocks, shuffled, rng)},
	}
}

// sideBySide are ways in which it may merge many at once.
func sideBySide(blocks []*dagBlock, seed uint64) []shuffle {
	rng := rand.New(rand.NewPCG(seed, 9))
	return []shuffle{
		{"heads at once", headsAtOnce(blocks)},
		{"all announced at random", announcedAtRandom(blocks, rng)},
		{"had at random", hadAtRandom(blocks, rng)},
	}
}

// downFrom announces blocks, each when all below the last one has been merged, and lets
// the replica have what is below one by one, from the top, in an order that is random as
// far as links leave it open.
func downFrom(blocks, announced []*dagBlock, rng *rand.Rand) (steps []wire.Step) {
	given := make(map[*dagBlock]bool)
	for _, top := range announced {
		if given[top] {
			continue
		}
		message := announcement(top)
		for reach := []*dagBlock{top}; len(reach) > 0; message = nil {
			i := rng.IntN(len(reach))
			next := reach[i]
			reach, given[next] = slices.Delete(reach, i, i+1), true
			place := places(blocks, []*dagBlock{next})
			steps = append(steps, wire.Step{Give: place, Announce: message, Await: place})
			for _, l := range next.links() {
				if !given[l] && !slices.Contains(reach, l) {
					reach = append(reach, l)
				}
			}
		}
	}
	return steps
}

// headsAtOnce lets the replica fetch all from the heads.
func headsAtOnce(blocks []*dagBlock) []wire.Step {
	return []wire.Step{{Give: places(blocks, blocks), Announce: announcement(headsOf(blocks)...)}}
}

// announcedAtRandom announces all blocks, and has what each is built on merged before the
// next is announced, or not.
func announcedAtRandom(blocks []*dagBlock, rng *rand.Rand) []wire.Step {
	steps := []wire.Step{{Give: places(blocks, blocks)}}
	for _, i := range rng.Perm(len(blocks)) {
		step := wire.Step{Announce: announcement(blocks[i])}
		if rng.IntN(2) == 0 {
			step.Await = places(blocks, below(blocks[i:i+1]))
		}
		steps = append(steps, step)
	}
	return steps
}

// hadAtRandom lets the blocks become available in any order, while those above wait for
// them. At times the replica is closed and opened meanwhile.
func hadAtRandom(blocks []*dagBlock, rng *rand.Rand) []wire.Step {
	message := announcement(headsOf(blocks)...)
	steps := []wire.Step{{Announce: message}}
	for _, i := range rng.Perm(len(blocks)) {
		step := wire.Step{Give: []int{i}}
		if rng.IntN(8) == 0 {
			step.Reopen = true
			steps = append(steps, step)
			step = wire.Step{Announce: message}
		}
		steps = append(steps, step)
	}
	return steps
}

// places are the indexes of some of the blocks.
func places(blocks, some []*dagBlock) (indexes []int) {
	for _, b := range some {
		indexes = append(indexes, slices.Index(blocks, b))
	}
	return indexes
}
