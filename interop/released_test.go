package interop

import (
	"maps"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// What the released module makes of some blocks, and what is right (see outcome). The
// first tests are of what it gets wrong, the others of what one might suspect. README.md
// lists them: keep it true.

func TestReleasedTakesTheLastOfAKeyTwiceInABlock(t *testing.T) {
	differ(t, chained(puts(element{"/k", "z"}, element{"/k", "a"})), pairs{"/k": "a"})
}

func TestReleasedLosesAnEmptyValueThatIsUncovered(t *testing.T) {
	differ(t, chained(puts(element{"/k", ""}), puts(element{"/k", "x"}), removes("/k", 1)), pairs{})
}

func TestReleasedLosesAnEmptyValueWhenAnotherIsRemoved(t *testing.T) {
	differ(t, chained(puts(element{"/k", "x"}), puts(element{"/k", ""}), removes("/k", 0)), pairs{})
}

// It shows the key / with an empty name.
func TestReleasedTakesTheRootKey(t *testing.T) {
	differ(t, chained(puts(element{"/", "x"}, element{"/k", "y"})), pairs{"": "x", "/k": "y"})
}

// It looks for the clean key in the block.
func TestReleasedLosesAKeyThatIsNotCleanWhenItIsUncovered(t *testing.T) {
	differ(t, chained(puts(element{"/u//v", "x"}), puts(element{"/u/v", "y"}), removes("/u/v", 1)), pairs{})
}

// The row that it writes is not where it looks for it.
func TestReleasedLosesAKeyThatGoesUp(t *testing.T) {
	differ(t, chained(puts(element{"/../w", "x"}, element{"/k", "y"})), pairs{"/k": "y"})
}

// It has one set of heads for the blocks of all DAGs. The pairs are the same.
func TestReleasedKnowsNoNamedDAGs(t *testing.T) {
	block := newBlock(delta{elements: []element{{"/k", "x"}}, priority: 1, dag: "dag1"}, nil)
	for _, r := range startBoth(t) {
		want := map[kind]string{ours: "/a/dag1" + block.id(), old: "/h" + block.id()}[r.kind]
		out := r.mustMake(t, r.kind.replayOf([]*dagBlock{block}, fromHeads([]*dagBlock{block})), pairs{"/k": "x"})
		if len(out.Heads) != 1 || out.Heads[0] != want {
			t.Errorf("%s: the heads are %v, not %s", r.kind.name, out.Heads, want)
		}
	}
}

func TestReleasedTakesKeysThatAreNotClean(t *testing.T) {
	agrees(t, chained(puts(element{"/u//v", "x"}, element{"w", "x"}), removes("/u/v", 0)))
}

func TestReleasedTakesTheGreaterOfAKeyTwiceIfItIsLast(t *testing.T) {
	agrees(t, chained(puts(element{"/k", "a"}, element{"/k", "z"})))
}

func TestReleasedUncoversTheGreaterOfAKeyTwiceIfItIsLast(t *testing.T) {
	agrees(t, chained(puts(element{"/k", "a"}, element{"/k", "z"}), puts(element{"/k", "over"}), removes("/k", 1)))
}

// Equal puts that differ in their tags are two versions: to remove one leaves the other.
func TestReleasedSkipsTheTag(t *testing.T) {
	put := delta{elements: []element{{"/k", "x"}}, priority: 1}
	var blocks []*dagBlock
	for _, put.tag = range []string{"8 random", "\xff\x00\x80 more", ""} {
		blocks = append(blocks, newBlock(put, nil))
	}
	agrees(t, blocks)
	for i := range blocks {
		removal := newBlock(delta{tombstones: []tombstone{{"/k", blocks[i].id()}}, priority: 2}, blocks[i:i+1])
		blocks = append(blocks, removal)
		agrees(t, blocks)
	}
}

func TestReleasedHasElementAndTombstoneOfAKeyInABlock(t *testing.T) {
	agrees(t, chained(puts(element{"/k", "z"}), func(below []*dagBlock) delta {
		d := removes("/k", 0)(below)
		d.elements = []element{{"/k", "a"}}
		return d
	}))
}

func TestReleasedTakesAnEmptyValue(t *testing.T) {
	agrees(t, chained(puts(element{"/k", ""})))
	agrees(t, chained(puts(element{"/k", "x"}), puts(element{"/k", ""})))
}

func TestReleasedTakesATombstoneBeforeItsBlock(t *testing.T) {
	agrees(t, chained(puts(element{"/k", "x"}), puts(element{"/k", "y"}), removes("/k", 0)))
	agrees(t, chained(puts(element{"/k", "x"}), removes("/k", 0)))
}

func TestReleasedTakesTheGreaterValueOfEqualPriorities(t *testing.T) {
	agrees(t, tie("a", "z"))
	agrees(t, tie("z", "a"))
	agrees(t, tie("aa", "a"))
}

func TestReleasedBringsALowerVersionBack(t *testing.T) {
	for _, blocks := range [][]*dagBlock{tie("a", "z"), tie("z", "a")} {
		removal := delta{tombstones: []tombstone{{"/k", blocks[1].id()}}, priority: 2}
		agrees(t, append(blocks, newBlock(removal, blocks[1:])))
	}
}

// It adds 1 to what a head claims, so that 0 follows 2^64-1, in its rows as well. Yet
// it tells such priorities apart.
func TestReleasedTakesAnyPriority(t *testing.T) {
	both := startBoth(t)
	for _, p := range oddPriorities {
		for _, q := range oddPriorities {
			first := newBlock(delta{elements: []element{{"/k", "z"}}, priority: p}, nil)
			second := newBlock(delta{elements: []element{{"/k", "a"}}, priority: q}, []*dagBlock{first})
			third := newBlock(delta{elements: []element{{"/k", "m"}}, priority: 3}, []*dagBlock{second})
			fourth := newBlock(delta{tombstones: []tombstone{{"/k", third.id()}}, priority: 4}, []*dagBlock{third})
			for _, r := range both {
				for _, blocks := range [][]*dagBlock{{first, second, third}, {first, second, third, fourth}} {
					if complaints := r.check(blocks, oneByOne(blocks, 1)); complaints != "" {
						t.Error(complaints)
					}
				}
			}
		}
	}
}

// differ shows what v0.6.8 makes of blocks that come as they were created, and that ours
// makes of them what is right. In another order v0.6.8 may be right, too.
func differ(t *testing.T, blocks []*dagBlock, released pairs) {
	t.Helper()
	if maps.Equal(outcome(blocks), released) {
		t.Errorf("there is no difference: %v is right", released)
	}
	both := startBoth(t)
	for _, r := range both {
		want := map[kind]pairs{ours: outcome(blocks), old: released}[r.kind]
		r.mustMake(t, r.kind.replayOf(blocks, asCreated(blocks)), want)
	}
}

// agrees shows that both make of blocks what is right.
func agrees(t *testing.T, blocks []*dagBlock) {
	t.Helper()
	for _, r := range startBoth(t) {
		if complaints := r.check(blocks, oneByOne(blocks, 1)); complaints != "" {
			t.Error(complaints)
		}
	}
}

func (r *replayer) mustMake(t *testing.T, req wire.Replay, want pairs) wire.Outcome {
	t.Helper()
	out, err := r.play(req)
	if err != nil {
		t.Fatalf("%s: %s", r.kind.name, err)
	}
	if diff := differences(toPairs(out.Pairs), want); diff != "" {
		t.Errorf("%s: %s", r.kind.name, diff)
	}
	return out
}

func asCreated(blocks []*dagBlock) shuffle { return oneByOne(blocks, 1)[0] }
func fromHeads(blocks []*dagBlock) shuffle { return oneByOne(blocks, 1)[1] }

// chained makes a block of each delta, each on top of the last, with priorities from 1.
func chained(deltas ...func(below []*dagBlock) delta) (blocks []*dagBlock) {
	for i, d := range deltas {
		next := d(blocks)
		next.priority = uint64(i + 1)
		blocks = append(blocks, newBlock(next, blocks[max(0, len(blocks)-1):]))
	}
	return blocks
}

func puts(elements ...element) func([]*dagBlock) delta {
	return func([]*dagBlock) delta { return delta{elements: elements} }
}

// removes tombstones the version that a block below gave to a key.
func removes(key string, of int) func([]*dagBlock) delta {
	return func(below []*dagBlock) delta {
		return delta{tombstones: []tombstone{{key, below[of].id()}}}
	}
}

// tie has two versions of equal priority.
func tie(first, second string) []*dagBlock {
	a := newBlock(delta{elements: []element{{"/k", first}}, priority: 1}, nil)
	b := newBlock(delta{elements: []element{{"/k", second}}, priority: 1}, nil)
	return []*dagBlock{a, b}
}
