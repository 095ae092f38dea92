package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
)

// The tree of certain entries, byte for byte: replicas of all releases must make the same.
func TestTreeVectors(t *testing.T) {
	small := []entry{
		{key: "/a", id: testID(1), priority: 1, value: []byte("v1")},
		{key: "/a", id: testID(2), priority: math.MaxUint64, value: []byte("v2")},
		{key: "/a/b", id: testID(1), priority: 300},
		{key: "/b", id: testID(3), value: bytes.Repeat([]byte("v"), maxInlineValue+1)},
		{key: "/z", id: testID(4), tombstone: true},
	}
	for _, v := range []struct {
		entries []entry
		root    string
		page    string
	}{
		{nil, "bafybeiaqfni3s5s2k2r6rgpxz4hohdsskh44ka5tk6ztbjerqpvxwfkwaq", "0a00"},
		{small, "bafybeiglxgiooozt23r6vn4dqaky5ndla4tgvcxdemtnnsfokv34esix3a", "122a0a2401551220b3d4a80ef226c60808b1513ab3a1217ab0b0fbfa4154410a681796b2d6a64718120018000ac00112800100010000000000000000000000000000000000000000000000000000000000010002000000000000000000000000000000000000000000000000000000000001000300000000000000000000000000000000000000000000000000000000000100040000000000000000000000000000000000000000000000000000000000011a050002020101220502000201012a062f612f62627a320500010002033801420e01ffffffffffffffffff01ac02004a06020200818004520476317632"},
		{someVersions(10_000, 100), "bafybeieq33fj4stog2d3rg7jvgryketgzfkon7zopeszzj2crt26nbi25y", ""},
	} {
		sink := newMemorySink()
		root := newTreeHarness(t).build(sink, v.entries)
		data := sink.pages[pageName{id: root.id}]
		if got := root.id.Cid().String(); got != v.root {
			t.Errorf("root %s, want %s", got, v.root)
		}
		if got := hex.EncodeToString(data); v.page != "" && got != v.page {
			t.Errorf("page %s, want %s", got, v.page)
		}
	}
}

func FuzzTreePage(f *testing.F) {
	h := newTreeHarness(f)
	v := versionAt("/a/b")
	v.priority = math.MaxUint64
	large := entry{key: "/b", id: testID(3), value: bytes.Repeat([]byte("v"), maxInlineValue+1)}
	for _, entries := range [][]entry{nil, {versionAt("/a"), v}, {v, tombstoned("/c")}, {v, large}} {
		h.build(h.store, entries)
	}
	leaves := []subtree{h.leaf(nil, versionAt("/a"), v), h.leaf(nil, versionAt("/k"), tombstoned("/a")), h.leaf(nil, tombstoned("/b"))}
	h.inner(nil, leaves...)
	h.inner(nil, h.inner(nil, leaves[0]))
	for _, raw := range h.node.blocks {
		if len(raw) <= maxInlineValue {
			f.Add(raw)
		}
	}
	for _, key := range badKeys {
		b := newPageBuilder(0)
		b.addEntry(&entry{key: key, id: testID(1)})
		p, _, err := b.finish()
		h.must(err)
		f.Add(p.data)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decodeTreePage(raw, 2<<20)
		if err != nil {
			if !errors.Is(err, errBadSnapshot) {
				t.Errorf("it is malformed, and the error is not: %s", err)
			}
			return
		}
		checkTreePage(t, p)
		if again := rebuilt(t, p); !samePage(p, again) {
			t.Errorf("built anew the page is another one")
		}
	})
}

// checkTreePage states the rules that a page obeys anew.
func checkTreePage(t *testing.T, p *treePage) {
	t.Helper()
	names := p.entries
	for _, c := range p.children {
		names = append(names, c.first)
	}
	size := uint64(0)
	for i, e := range names {
		size += uint64(len(e.key))
		if clean, ok := plainKey(e.key); !ok || clean != e.key {
			t.Errorf("key %q", e.key)
		}
		if i > 0 && strings.Compare(sortable(names[i-1]), sortable(e)) >= 0 {
			t.Errorf("%s after %s", &e, &names[i-1])
		}
	}
	if size > largestPage {
		t.Errorf("keys of %d bytes", size)
	}
	var sum totals
	for _, e := range p.entries {
		sum.entries++
		sum.bytes += uint64(len(e.key) + e.valueSize())
		if e.stored != nil {
			sum.values++
		}
	}
	for _, c := range p.children {
		sum.entries += c.totals.entries
		sum.bytes += c.totals.bytes
		sum.values += c.totals.values
	}
	if sum != p.totals || p.level > maxLevel || (p.level > 0) != (len(p.children) > 0) {
		t.Errorf("%v, want %v; %d children on level %d", p.totals, sum, len(p.children), p.level)
	}
}

// sortable is a string that sorts as the entry does.
func sortable(e entry) string {
	if e.tombstone {
		return "2" + string(e.id[:]) + e.key
	}
	return "1" + strings.ReplaceAll(e.key, "\x00", "\x00\x01") + "\x00\x00" + string(e.id[:])
}

// rebuilt is the page that we would make of the same.
func rebuilt(t *testing.T, p *treePage) *treePage {
	t.Helper()
	b := newPageBuilder(p.level)
	for i := range p.entries {
		b.addEntry(&p.entries[i])
	}
	for i := range p.children {
		b.addChild(&p.children[i])
	}
	made, whole, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeTreePage(made.data, 2<<20)
	if err != nil {
		t.Fatalf("what was accepted cannot be built: %s", err)
	}
	if whole.id != sha256.Sum256(made.data) || whole.totals != p.totals || whole.level != p.level {
		t.Errorf("the page is said to be %v", whole)
	}
	return again
}

func samePage(a, b *treePage) bool {
	if a.level != b.level || a.totals != b.totals || len(a.children) != len(b.children) || !sameEntries(a.entries, b.entries) {
		return false
	}
	for i := range a.children {
		x, y := &a.children[i], &b.children[i]
		if x.id != y.id || x.totals != y.totals || x.first.compare(&y.first) != 0 {
			return false
		}
	}
	return true
}
