package crdt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// A memorySink holds pages in memory.
type memorySink struct {
	pages   map[pageName][]byte
	largest int
}

func newMemorySink() *memorySink { return &memorySink{pages: make(map[pageName][]byte)} }

func (s *memorySink) addPages(_ context.Context, pages []page) error {
	for _, p := range pages {
		s.pages[p.name()] = p.data
		s.largest = max(s.largest, len(p.data))
	}
	return nil
}

// A treeHarness builds trees in a DAG service of its own.
type treeHarness struct {
	testing.TB
	node  *testNode
	store *blockStore
	sizes pageSizes
}

func newTreeHarness(t testing.TB) *treeHarness {
	node := newTestNet().node()
	return &treeHarness{t, node, &blockStore{service: node, maxSize: 2 << 20}, honestSizes}
}

func (h *treeHarness) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *treeHarness) builder(to pageSink) *treeBuilder {
	b := newTreeBuilder(to)
	b.sizes = h.sizes
	return b
}

func (h *treeHarness) build(to pageSink, entries []entry) treeRoot {
	h.Helper()
	b := h.builder(to)
	for i := range entries {
		h.must(b.add(ctx, &entries[i]))
	}
	root, err := b.finish(ctx)
	h.must(err)
	return root
}

// read returns all entries of a tree but for the first ones.
func (h *treeHarness) read(root treeRoot, skip int) (all []entry) {
	h.Helper()
	for e, err := range h.store.treeEntries(ctx, root, uint64(skip)) {
		h.must(err)
		all = append(all, *e)
	}
	return all
}

func sameEntries(a, b []entry) bool {
	return slices.EqualFunc(a, b, func(a, b entry) bool {
		return a.compare(&b) == 0 && a.priority == b.priority && bytes.Equal(a.value, b.value)
	})
}

// blockN is the id of an invented block.
func blockN(n int) (id blockID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9E3779B97F4A7C15)
	id[31] = byte(n)
	return id
}

// someVersions invents versions of as many keys, with values of a size.
func someVersions(n, size int) []entry {
	all := make([]entry, n)
	for i := range all {
		value := make([]byte, size)
		binary.BigEndian.PutUint64(value, uint64(i))
		all[i] = entry{key: fmt.Sprintf("/some/key/%09d", i), id: blockN(i / 20), priority: uint64(i), value: value}
	}
	return all
}

func TestTreeHoldsWhatWasAdded(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 20_000} {
		h := newTreeHarness(t)
		want := someVersions(n, 100)
		for i := range n / 10 {
			want = append(want, entry{key: "/dead", id: testIDOf(i << 8), tombstone: true})
		}
		slices.SortFunc(want, func(a, b entry) int { return a.compare(&b) })
		root := h.build(h.store, want)
		for _, skip := range []int{0, 1, n / 2, n, n + 1} {
			if got := h.read(root, skip); !sameEntries(got, want[min(skip, len(want)):]) {
				t.Errorf("of %d entries there are %d after %d", len(want), len(got), skip)
			}
		}
		var tombstones []entry
		for e, err := range h.store.openTombstones(ctx, root) {
			h.must(err)
			tombstones = append(tombstones, *e)
		}
		if !sameEntries(tombstones, want[n:]) {
			t.Errorf("%d tombstones, want %d", len(tombstones), len(want)-n)
		}
	}
}

// nothingKept is a pageSink for those who want to know the root alone.
type nothingKept struct{}

func (nothingKept) addPages(context.Context, []page) error { return nil }
