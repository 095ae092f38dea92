package crdt

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A treeWorld is blocks that give values to keys and remove versions.
type treeWorld struct {
	rng      *rand.Rand
	versions map[blockID][]entry
	removes  map[blockID][]entry
}

// newTreeWorld invents blocks. Now and then a value has a page of its own.
func newTreeWorld(rng *rand.Rand, blocks int) *treeWorld {
	w := &treeWorld{rng, make(map[blockID][]entry), make(map[blockID][]entry)}
	var all []entry
	for b := range blocks {
		id := blockN(b + 1)
		keys := make(map[string]bool)
		for range 1 + rng.IntN(5) {
			keys[fmt.Sprintf("/%d", rng.IntN(2*blocks))] = true
		}
		for key := range maps.Keys(keys) {
			size := rng.IntN(60)
			if rng.IntN(500) == 0 {
				size = maxInlineValue - 1 + rng.IntN(4)
			}
			e := entry{key: key, id: id, priority: rng.Uint64N(99), value: make([]byte, size)}
			w.versions[id] = append(w.versions[id], e)
			all = append(all, e)
		}
		for range rng.IntN(3) {
			e := all[rng.IntN(len(all))]
			w.removes[id] = append(w.removes[id], entry{key: e.key, id: e.id, tombstone: true})
		}
	}
	return w
}

// some chooses each block with a likelihood.
func (w *treeWorld) some(likely float64) map[blockID]bool {
	chosen := make(map[blockID]bool)
	for b := range len(w.versions) {
		if w.rng.Float64() < likely {
			chosen[blockN(b+1)] = true
		}
	}
	return chosen
}

// effect is what blocks come to, by brute force: the versions, and the open tombstones.
func (w *treeWorld) effect(blocks map[blockID]bool) (live, open []entry) {
	dead := make(map[versionName]bool)
	for id := range blocks {
		for _, e := range w.removes[id] {
			if n := (versionName{e.key, e.id}); !dead[n] && !blocks[e.id] {
				open = append(open, e)
			}
			dead[versionName{e.key, e.id}] = true
		}
	}
	for id := range blocks {
		for _, e := range w.versions[id] {
			if !dead[versionName{e.key, e.id}] {
				live = append(live, e)
			}
		}
	}
	sortEntries(live)
	sortEntries(open)
	return live, open
}

func sortEntries(all []entry) { slices.SortFunc(all, func(a, b entry) int { return a.compare(&b) }) }

// changes are what fresh blocks do, and what the tombstones that were open remove.
func (w *treeWorld) changes(fresh map[blockID]bool, open ...[]entry) iter.Seq2[*treeChange, error] {
	all := make(map[versionName]*treeChange)
	for id := range fresh {
		for _, e := range w.versions[id] {
			all[versionName{e.key, e.id}] = &treeChange{entry: e}
		}
	}
	remove := func(e entry) {
		e.tombstone = false
		all[versionName{e.key, e.id}] = &treeChange{entry: e, removed: true}
	}
	for id := range fresh {
		for _, e := range w.removes[id] {
			remove(e)
		}
	}
	for _, e := range slices.Concat(open...) {
		remove(e)
	}
	sorted := slices.SortedFunc(maps.Values(all), func(a, b *treeChange) int { return a.compare(&b.entry) })
	return func(yield func(*treeChange, error) bool) {
		for _, c := range sorted {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func covers(cover map[blockID]bool) func(context.Context, blockID) (bool, error) {
	return func(_ context.Context, id blockID) (bool, error) { return cover[id], nil }
}

// fold makes the tree of some blocks from those of others.
func (h *treeHarness) fold(w *treeWorld, all map[blockID]bool, bases ...map[blockID]bool) treeRoot {
	h.Helper()
	fresh := maps.Clone(all)
	var from []foldBase
	var open [][]entry
	for _, cover := range bases {
		live, tombstones := w.effect(cover)
		from = append(from, foldBase{h.build(h.store, slices.Concat(live, tombstones)), covers(cover)})
		open = append(open, tombstones)
		for id := range cover {
			delete(fresh, id)
		}
	}
	b := h.builder(h.store)
	h.must(b.merge(ctx, h.store, from, w.changes(fresh, open...)))
	_, tombstones := w.effect(all)
	for i := range tombstones {
		h.must(b.add(ctx, &tombstones[i]))
	}
	root, err := b.finish(ctx)
	h.must(err)
	return root
}

func TestTreesAreTheSameHoweverTheyAreMade(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		w := newTreeWorld(rng, pick(rng, 1, 30, 400, 400))
		h := newTreeHarness(t)
		h.sizes = pageSizes{400, 800, 3000} // for many pages, on many levels
		common := w.some(pick(rng, 0, .5, .9, 1))
		all := maps.Clone(common)
		var bases []map[blockID]bool
		for range rng.IntN(5) {
			cover := w.some(pick(rng, 0, .003, .1, .5))
			maps.Copy(cover, common)
			maps.Copy(all, cover)
			bases = append(bases, cover)
		}
		maps.Copy(all, w.some(pick(rng, 0, .003, .1)))
		live, open := w.effect(all)
		want := slices.Concat(live, open)
		root := h.build(h.store, want)
		if got := h.fold(w, all, bases...); got != root {
			t.Errorf("seed %d: %v was folded from %d bases, want %v", seed, got, len(bases), root)
		}
		if !sameEntries(h.read(root, 0), want) {
			t.Errorf("seed %d: other entries are read", seed)
		}
		h.must(h.store.checkTree(ctx, root, covers(all)))
		h.checkPages(root)
	}
}

// checkPages checks which pages a tree has, and what treePages has to read for that.
func (h *treeHarness) checkPages(root treeRoot) {
	h.Helper()
	sink := newMemorySink()
	h.build(sink, h.read(root, 0))
	for n, err := range h.store.treePages(ctx, root) {
		h.must(err)
		if p := mustDecodePage(h, sink.pages[n], n.raw); p != nil {
			for i := range p.children {
				if sink.pages[pageName{id: p.children[i].id}] != nil {
					h.Errorf("page %s comes before one below it", n.Cid())
				}
			}
		}
		delete(sink.pages, n)
	}
	if len(sink.pages) > 0 {
		h.Errorf("%d pages are missing", len(sink.pages))
	}
	if sink.largest > maxPageSize {
		h.Errorf("a page has %d bytes", sink.largest)
	}
}

func mustDecodePage(t testing.TB, data []byte, raw bool) *treePage {
	t.Helper()
	if raw || data == nil {
		return nil // the same value may stand there twice
	}
	p, err := decodeTreePage(data, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Ten changes in many entries write and read few pages, wherever they are.
func TestFewChangesTouchFewPages(t *testing.T) {
	h := newTreeHarness(t)
	all := someVersions(300_000, 120)
	root := h.build(h.store, all)
	for name, at := range map[string]func(int) int{
		"spread":   func(i int) int { return i * len(all) / 10 },
		"together": func(i int) int { return 1000 + i },
	} {
		t.Run(name, func(t *testing.T) {
			changes := func(yield func(*treeChange, error) bool) {
				for i := range 10 {
					c := &treeChange{entry: all[at(i)]}
					switch i % 3 {
					case 0:
						c.removed = true
					case 1:
						c.id = testID(i) // a version beside it
					case 2:
						c.key += "+"
					}
					if !yield(c, nil) {
						return
					}
				}
			}
			sink := newMemorySink()
			b := newTreeBuilder(sink)
			before := h.node.asked()
			h.must(b.merge(ctx, h.store, []foldBase{{root, nil}, {root, nil}}, changes))
			changed, err := b.finish(ctx)
			h.must(err)
			read := h.node.asked() - before
			if changed.id == root.id || len(sink.pages) > 25 || read > 50 {
				t.Errorf("%d pages were written and %d read", len(sink.pages), read)
			}
		})
	}
}

// level returns how high a tree is.
func (h *treeHarness) level(root treeRoot) int {
	h.Helper()
	r := h.store.readPages(ctx)
	defer r.end()
	c, err := r.openTree(root)
	h.must(err)
	return c.subtree().level
}

// Two trees share the pages of what they have in common, though one is higher.
func TestTreesOfDifferentHeightsSharePages(t *testing.T) {
	h := newTreeHarness(t)
	h.sizes = pageSizes{400, 800, 3000}
	all := someVersions(4000, 20)
	n := 2000
	low := h.build(h.store, all[:n])
	high := low
	for ; h.level(high) == h.level(low); n += 50 {
		low, high = high, h.build(h.store, all[:n])
	}
	pages := len(h.pagesOf(high))
	before := h.node.asked()
	b := h.builder(nothingKept{})
	none := func(func(*treeChange, error) bool) {}
	h.must(b.merge(ctx, h.store, []foldBase{{low, covers(nil)}, {high, covers(nil)}}, none))
	root, err := b.finish(ctx)
	h.must(err)
	if read := h.node.asked() - before; root != high || read > pages/4 {
		t.Errorf("of %d pages %d were read; the tree is %v, want %v", pages, read, root, high)
	}
}
