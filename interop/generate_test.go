package interop

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// generator makes a random history: writers that know of some of the others' blocks
// build on what they know.
type generator struct {
	rng     *rand.Rand
	blocks  []*dagBlock
	writers []*writer
	keys    []string
	values  []string
	dags    []string
	wild    bool
}

// writer is a replica that is only made up.
type writer struct{ known []*dagBlock }

// randomBlocks makes a history of 1 to 40 blocks, parents first. A wild one has what the
// released module is known to get wrong: see released_test.go.
func randomBlocks(seed uint64, wild bool) []*dagBlock {
	rng := rand.New(rand.NewPCG(seed, 7))
	g := &generator{rng: rng, wild: wild, keys: someOf(rng, allKeys), values: someOf(rng, allValues), dags: []string{""}}
	if wild {
		g.values = append(g.values, "")
	}
	if rng.IntN(3) == 0 {
		g.dags = []string{"", "", "dag1", "dag2"}
	}
	for range 1 + rng.IntN(5) {
		g.writers = append(g.writers, &writer{})
	}
	for range 1 + rng.IntN(40) {
		g.step()
	}
	return g.blocks
}

// Keys that are prefixes of others, or look like rows of the store.
var allKeys = []string{
	"/a", "/a/b", "/a/b/c", "/ab", "/a/v", "/a/p", "/k", "/s/k", "/s/k/v", "/ü",
	"/a/CIQGFR4M5I56IONYKHV5FRB46U35GOFNOEBJ3NMGJ3HMC5ZESGBSMHY",
}

// Values of which some are prefixes of others.
var allValues = []string{"0", "00", "1", "10", "\x00", "\xff", "\xff\x00", "a value that is longer than the others"}

func someOf(rng *rand.Rand, all []string) []string {
	all = slices.Clone(all)
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+rng.IntN(len(all)-1)]
}

func (g *generator) chance(of int) bool { return g.rng.IntN(of) == 0 }

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// step lets a writer hear of others, or not, and make a block.
func (g *generator) step() {
	w := pick(g.rng, g.writers)
	if g.chance(3) {
		w.learn(pick(g.rng, g.writers).known)
	}
	d := delta{dag: pick(g.rng, g.dags)}
	g.fill(w, &d)
	if len(d.elements) > 0 && g.chance(2) {
		d.tag = string(binary.BigEndian.AppendUint64(nil, g.rng.Uint64()))
	}
	heads := headsOf(w.of(d.dag))
	d.priority = g.priority(heads)
	b := newBlock(d, heads, g.skips(w, heads)...)
	if slices.ContainsFunc(g.blocks, func(other *dagBlock) bool { return other.cid == b.cid }) {
		return // two writers did the same
	}
	w.learn([]*dagBlock{b})
	g.blocks = append(g.blocks, b)
}

func (w *writer) learn(blocks []*dagBlock) {
	for _, b := range blocks {
		if !slices.Contains(w.known, b) {
			w.known = append(w.known, b)
		}
	}
}

// of is what the writer knows of a DAG.
func (w *writer) of(dag string) []*dagBlock {
	return slices.DeleteFunc(slices.Clone(w.known), func(b *dagBlock) bool { return b.delta.dag != dag })
}

// priority is one more than that of the heads. Blocks exist that have another.
func (g *generator) priority(heads []*dagBlock) uint64 {
	switch {
	case g.chance(20):
		return 1 + g.rng.Uint64N(50)
	case g.chance(100):
		return pick(g.rng, oddPriorities)
	}
	p := uint64(1)
	for _, h := range heads {
		p = max(p, h.delta.priority+1)
	}
	return p
}

// Priorities at which one might add too much.
var oddPriorities = []uint64{0, 1, math.MaxInt64 - 1, math.MaxInt64, 1 << 63, math.MaxUint64 - 1, math.MaxUint64}

// skips links to an older block at times.
func (g *generator) skips(w *writer, heads []*dagBlock) []*dagBlock {
	if len(heads) == 0 || !g.chance(8) {
		return nil
	}
	older := pick(g.rng, below(heads))
	if slices.Contains(heads, older) {
		return nil
	}
	return []*dagBlock{older}
}

// below gives the blocks and all that they are built on.
func below(blocks []*dagBlock) []*dagBlock {
	all := slices.Clone(blocks)
	for i := 0; i < len(all); i++ {
		for _, l := range all[i].links() {
			if !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	return all
}

// fill makes a delta of some puts and deletes of different keys.
func (g *generator) fill(w *writer, d *delta) {
	keys := slices.Clone(g.keys)
	g.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:min(1+g.rng.IntN(4), len(keys))] {
		remove := g.chance(3)
		if remove {
			d.tombstones = append(d.tombstones, g.tombstones(w, key)...)
		}
		if !remove || g.chance(3) { // a batch may delete a key and put it again
			d.elements = append(d.elements, element{g.spell(key), pick(g.rng, g.values)})
		}
		if g.wild && g.chance(6) { // at times a second time
			d.elements = append(d.elements, element{g.spell(key), pick(g.rng, g.values)})
		}
	}
}

// spell writes a key as it is, or, in a wild history, not clean, or one that holds nothing.
func (g *generator) spell(key string) string {
	switch {
	case !g.wild:
		return key
	case g.chance(10):
		return pick(g.rng, []string{key[1:], "//" + key[1:], strings.ReplaceAll(key, "/", "/./"), key + "/", "/x/.." + key, "/.." + key})
	case g.chance(20):
		return pick(g.rng, []string{"/", "", key + "/../../../../.."})
	}
	return key
}

// tombstones removes the versions of a key that a writer knows of: all or some. At times
// it removes one that the writer can't know of, whose block may come later.
func (g *generator) tombstones(w *writer, key string) (list []tombstone) {
	known, some := w.known, g.chance(4)
	if g.chance(6) {
		known = g.blocks
	}
	for _, b := range known {
		has := slices.ContainsFunc(b.delta.elements, func(e element) bool { return cleaned(e.key) == key })
		if has && !(some && g.chance(2)) {
			list = append(list, tombstone{g.spell(key), b.id()})
		}
	}
	return list
}
