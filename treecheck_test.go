package crdt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	dagpb "github.com/ipfs/go-merkledag/pb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// forgeNode puts a dag-pb node with any links into the DAG service.
func (h *treeHarness) forgeNode(data []byte, links ...cid.Cid) blockID {
	h.Helper()
	node := dagpb.PBNode{Data: data}
	for _, c := range links {
		node.Links = append(node.Links, &dagpb.PBLink{Hash: c.Bytes()})
	}
	raw, err := node.Marshal()
	h.must(err)
	return h.forgeBytes(raw)
}

func (h *treeHarness) forgeBytes(raw []byte) blockID {
	h.Helper()
	id := blockID(sha256.Sum256(raw))
	h.must(h.node.addRaw(id.Cid(), raw))
	return id
}

// leaf makes a leaf of any entries, changed by spoil, and returns it as an honest parent
// would tell of it.
func (h *treeHarness) leaf(spoil func(*pb.VersionsPage), entries ...entry) subtree {
	h.Helper()
	p := newPageBuilder(0)
	for i := range entries {
		p.addEntry(&entries[i])
	}
	return h.forgePage(p, spoil)
}

// inner makes an inner page of any children, likewise.
func (h *treeHarness) inner(spoil func(*pb.VersionsPage), children ...subtree) subtree {
	h.Helper()
	p := newPageBuilder(children[0].level + 1)
	for i := range children {
		p.addChild(&children[i])
	}
	return h.forgePage(p, spoil)
}

func (h *treeHarness) forgePage(p *pageBuilder, spoil func(*pb.VersionsPage)) subtree {
	h.Helper()
	if spoil != nil {
		spoil(&p.msg)
	}
	forged, whole, err := p.finish()
	h.must(err)
	h.must(h.store.addPages(ctx, []page{forged}))
	return whole
}

func (t *subtree) root() treeRoot { return treeRoot{t.id, t.totals.entries, t.bytes} }

func versionAt(key string) entry {
	return entry{key: key, id: blockN(1), priority: 1, value: []byte("v")}
}

// tombstoned is a tombstone whose block is not covered.
func tombstoned(key string) entry { return entry{key: key, id: blockN(2), tombstone: true} }

var onlyBlock1 = covers(map[blockID]bool{blockN(1): true})

func coversAll(context.Context, blockID) (bool, error) { return true, nil }

// What no honest replica makes is refused for good.
func TestHostileTrees(t *testing.T) {
	ab := func(spoil func(*pb.VersionsPage)) func(h *treeHarness) subtree {
		return func(h *treeHarness) subtree { return h.leaf(spoil, versionAt("/a"), versionAt("/b")) }
	}
	overAB := func(spoil func(*pb.VersionsPage)) func(h *treeHarness) subtree {
		return func(h *treeHarness) subtree {
			return h.inner(spoil, h.leaf(nil, versionAt("/a")), h.leaf(nil, versionAt("/b"), tombstoned("/c")))
		}
	}
	ofKey := func(key string) func(h *treeHarness) subtree {
		return func(h *treeHarness) subtree { return h.leaf(nil, versionAt(key)) }
	}
	stored := func(size int, data []byte) func(h *treeHarness) subtree {
		return func(h *treeHarness) subtree {
			p := page{sha256.Sum256(data), data, true}
			h.must(h.store.addPages(ctx, []page{p}))
			e := versionAt("/large")
			e.value, e.stored = nil, &storedValue{p.id, size}
			return h.leaf(nil, e)
		}
	}
	linking := func(level uint32, links ...cid.Cid) func(h *treeHarness) subtree {
		return func(h *treeHarness) subtree {
			p := newPageBuilder(int(level))
			p.addName(&entry{key: "/a", id: blockN(1)})
			if p.msg.Priorities, p.msg.Sizes = []uint64{1}, []uint64{maxInlineValue + 1}; level > 0 {
				p.msg.Entries, p.msg.Bytes, p.msg.ValueBlocks = []uint64{1}, []uint64{3}, []uint64{0}
			}
			p.whole.totals = totals{entries: 1, bytes: 3}
			p.whole.id = h.forgeNode(mustMarshal(h, &p.msg), links...)
			return p.whole
		}
	}
	large := bytes.Repeat([]byte("v"), maxInlineValue+1)
	child := func(h *treeHarness, change func(*subtree)) subtree {
		c := h.leaf(nil, versionAt("/b"))
		change(&c)
		return h.inner(nil, h.leaf(nil, versionAt("/a")), c, h.leaf(nil, versionAt("/c")))
	}
	attacks := map[string]func(h *treeHarness) subtree{
		"unsorted":            func(h *treeHarness) subtree { return h.leaf(nil, versionAt("/b"), versionAt("/a")) },
		"twice the same":      func(h *treeHarness) subtree { return h.leaf(nil, versionAt("/a"), versionAt("/a")) },
		"tombstones unsorted": func(h *treeHarness) subtree { return h.leaf(nil, tombstoned("/b"), tombstoned("/a")) },
		"pages unsorted": func(h *treeHarness) subtree {
			return h.inner(nil, h.leaf(nil, versionAt("/b")), h.leaf(nil, versionAt("/a")))
		},
		"the same page twice": func(h *treeHarness) subtree { a := h.leaf(nil, versionAt("/a")); return h.inner(nil, a, a) },
		"pages overlap": func(h *treeHarness) subtree {
			return h.inner(nil, h.leaf(nil, versionAt("/a"), versionAt("/z")), h.leaf(nil, versionAt("/m")))
		},
		"a block not covered":     func(h *treeHarness) subtree { e := versionAt("/a"); e.id = blockN(9); return h.leaf(nil, e) },
		"a tombstone covered":     func(h *treeHarness) subtree { e := tombstoned("/a"); e.id = blockN(1); return h.leaf(nil, e) },
		"too many entries":        func(h *treeHarness) subtree { l := h.leaf(nil, versionAt("/a")); l.totals.entries++; return l },
		"too few entries":         func(h *treeHarness) subtree { l := h.leaf(nil, versionAt("/a")); l.totals.entries--; return l },
		"other bytes":             func(h *treeHarness) subtree { l := h.leaf(nil, versionAt("/a")); l.bytes++; return l },
		"entries of an empty one": func(h *treeHarness) subtree { l := h.leaf(nil); l.totals.entries++; return l },
		"a child of more entries": func(h *treeHarness) subtree { return child(h, func(c *subtree) { c.totals.entries++ }) },
		"a child of more bytes":   func(h *treeHarness) subtree { return child(h, func(c *subtree) { c.bytes++ }) },
		"a child of more values":  func(h *treeHarness) subtree { return child(h, func(c *subtree) { c.totals.values++ }) },
		"a child begins later":    func(h *treeHarness) subtree { return child(h, func(c *subtree) { c.first.key = "/aa" }) },
		"a child of another kind": func(h *treeHarness) subtree { return child(h, func(c *subtree) { *c = h.inner(nil, *c) }) },
		"an empty child": func(h *treeHarness) subtree {
			return child(h, func(c *subtree) { f := c.first; *c = h.leaf(nil); c.first = f })
		},
		"more than a number":      overAB(func(m *pb.VersionsPage) { m.Entries[0] = 1<<64 - 1 }),
		"bytes beyond numbers":    overAB(func(m *pb.VersionsPage) { m.Bytes[1] = 1<<64 - 1 }),
		"a child of no entries":   overAB(func(m *pb.VersionsPage) { m.Entries[0]-- }),
		"a parent of no children": overAB(func(m *pb.VersionsPage) { proto.Reset(m); m.Level = 1 }),
		"on a wrong level":        overAB(func(m *pb.VersionsPage) { m.Level = 2 }),
		"on a high level":         overAB(func(m *pb.VersionsPage) { m.Level = maxLevel + 1 }),
		"on a level beyond ints":  overAB(func(m *pb.VersionsPage) { m.Level = 1<<32 - 1 }),
		"an inner page as a leaf": overAB(func(m *pb.VersionsPage) { m.Level = 0 }),
		"a leaf as an inner page": ab(func(m *pb.VersionsPage) { m.Level = 1 }),
		"endless":                 endless,
		"no block":                ab(func(m *pb.VersionsPage) { m.Blocks = nil }),
		"half a block":            ab(func(m *pb.VersionsPage) { m.Blocks = m.Blocks[1:] }),
		"a place of no block":     ab(func(m *pb.VersionsPage) { m.Block[1] = 1 }),
		"a place far out":         ab(func(m *pb.VersionsPage) { m.Block[1] = 1<<32 - 1 }),
		"too few blocks":          ab(func(m *pb.VersionsPage) { m.Block = m.Block[1:] }),
		"too few suffixes":        ab(func(m *pb.VersionsPage) { m.Suffixes = m.Suffixes[1:] }),
		"too few priorities":      ab(func(m *pb.VersionsPage) { m.Priorities = m.Priorities[1:] }),
		"too few sizes":           ab(func(m *pb.VersionsPage) { m.Sizes = m.Sizes[1:] }),
		"too many tombstones":     ab(func(m *pb.VersionsPage) { m.Tombstones = 3 }),
		"tombstones of values":    ab(func(m *pb.VersionsPage) { m.Tombstones = 1 }),
		"values left over":        ab(func(m *pb.VersionsPage) { m.Values = append(m.Values, 'v') }),
		"values too short":        ab(func(m *pb.VersionsPage) { m.Sizes[1] = 2 }),
		"a value far too short":   ab(func(m *pb.VersionsPage) { m.Sizes[0] = 1<<64 - 1 }),
		"keys left over":          ab(func(m *pb.VersionsPage) { m.Keys = append(m.Keys, 'v') }),
		"keys too short":          ab(func(m *pb.VersionsPage) { m.Suffixes[1]++ }),
		"more shared than is":     ab(func(m *pb.VersionsPage) { m.Shared[1] = 3 }),
		"shared with nothing":     ab(func(m *pb.VersionsPage) { m.Shared[0] = 1 }),
		"far more shared":         ab(func(m *pb.VersionsPage) { m.Shared[1] = 1<<32 - 1 }),
		"keys that blow up":       keyBomb,
		"too large": func(h *treeHarness) subtree {
			return h.leaf(func(m *pb.VersionsPage) { m.Blocks = append(m.Blocks, make([]byte, maxPageSize)...) }, versionAt("/a"))
		},
		"too many entries at all": func(h *treeHarness) subtree { return h.leaf(nil, someVersions(largestPage/entrySize+1, 8)...) },
		"the root key":            ofKey("/"),
		"no key":                  ofKey(""),
		"no slash":                ofKey("a"),
		"a key with dots":         ofKey("/a/../b"),
		"a key with two slashes":  ofKey("/a//b"),
		"a key with a last slash": ofKey("/a/"),
		"a key not in UTF-8":      ofKey("/\xff"),
		"too long a key":          ofKey("/" + strings.Repeat("k", MaxKeyLength)),
		"a longer value":          stored(len(large)+1, large),
		"a shorter value":         stored(len(large), large[1:]),
		"a larger value":          stored(2<<20+1, make([]byte, 2<<20+1)),
		"a small value linked":    stored(10, make([]byte, 10)),
		"no link":                 linking(0),
		"two links":               linking(0, pageName{raw: true}.Cid(), pageName{raw: true}.Cid()),
		"a value in a node":       linking(0, testID(1).Cid()),
		"a child that is raw":     linking(1, pageName{raw: true}.Cid()),
		"a child of version 0":    linking(1, link{testID(1), true}.Cid()),
		"a child in no block":     linking(1, cid.NewCidV1(cid.DagProtobuf, []byte{0, 1, 'x'})),
		"two children for one":    linking(1, testID(1).Cid(), testID(2).Cid()),
		"no node":                 func(h *treeHarness) subtree { return subtree{id: h.forgeBytes([]byte("no node"))} },
		"no message":              func(h *treeHarness) subtree { return subtree{id: h.forgeNode([]byte{0xff})} },
	}
	for name, attack := range attacks {
		h := newTreeHarness(t)
		h.store.timeout = time.Minute
		root := attack(h)
		err := h.store.checkTree(ctx, root.root(), onlyBlock1)
		if !errors.Is(err, errBadSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless is a page whose only child is a page like itself, for ever.
func endless(h *treeHarness) subtree {
	t := h.leaf(nil, versionAt("/a"))
	for range 2 * maxLevel {
		p := newPageBuilder(1)
		p.addChild(&t)
		t = h.forgePage(p, nil)
	}
	return t
}

// keyBomb is a small page of very long keys.
func keyBomb(h *treeHarness) subtree {
	long := "/" + strings.Repeat("k", MaxKeyLength-8)
	var all []entry
	for i := range 10_000 {
		all = append(all, versionAt(fmt.Sprintf("%s%06d", long, i)))
	}
	return h.leaf(nil, all...)
}

// What is not as we would make it, and does no harm, is taken.
func TestUnusualTreesAreTaken(t *testing.T) {
	for name, make := range map[string]func(h *treeHarness) subtree{
		"nothing": func(h *treeHarness) subtree { return h.leaf(nil) },
		"small pages": func(h *treeHarness) subtree {
			return h.inner(nil, h.leaf(nil, versionAt("/a")), h.leaf(nil, tombstoned("/a")))
		},
		"an only child": func(h *treeHarness) subtree { return h.inner(nil, h.inner(nil, h.leaf(nil, versionAt("/a")))) },
		"a block twice": func(h *treeHarness) subtree {
			return h.leaf(func(m *pb.VersionsPage) { m.Blocks = append(m.Blocks, m.Blocks...); m.Block[0] = 1 }, versionAt("/a"))
		},
		"nothing shared": func(h *treeHarness) subtree {
			return h.leaf(func(m *pb.VersionsPage) { m.Keys, m.Shared[1], m.Suffixes[1] = []byte("/a/b"), 0, 2 }, versionAt("/a"), versionAt("/b"))
		},
		"a later field": func(h *treeHarness) subtree {
			return h.leaf(func(m *pb.VersionsPage) { m.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1}) }, versionAt("/a"))
		},
	} {
		h := newTreeHarness(t)
		root := make(h)
		if err := h.store.checkTree(ctx, root.root(), onlyBlock1); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// pagesOf returns the names of all pages of a tree.
func (h *treeHarness) pagesOf(root treeRoot) (names []pageName) {
	h.Helper()
	for n, err := range h.store.treePages(ctx, root) {
		h.must(err)
		names = append(names, n)
	}
	return names
}

// What cannot be had, or comes garbled, says nothing about the tree.
func TestTreeThatCannotBeHadIsNotMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTreeHarness(t)
		h.store.timeout = time.Minute
		all := someVersions(20_000, 100)
		all[7].value = make([]byte, maxInlineValue+1)
		root := h.build(h.store, all)
		for _, n := range h.pagesOf(root) {
			show := h.node.hide(t, n.Cid())
			if err := h.store.checkTree(ctx, root, coversAll); err == nil || errors.Is(err, errBadSnapshot) {
				t.Errorf("without page %s: %v", n.Cid(), err)
			}
			show()
		}
	})
}

// slowly is a network in which every request takes a while.
func slowly(h *treeHarness) *blockStore {
	h.node.net.delay = 10 * time.Millisecond
	return &blockStore{service: h.node.net.node(), maxSize: 2 << 20}
}

func TestPagesAreFetchedSideBySide(t *testing.T) {
	for name, size := range map[string]int{"small values": 1000, "large values": maxInlineValue + 1} {
		synctest.Test(t, func(t *testing.T) {
			h := newTreeHarness(t)
			root := h.build(h.store, someVersions(10<<20/size, size))
			pages := len(h.node.blocks)
			newcomer := slowly(h)
			begun := time.Now()
			h.must(newcomer.checkTree(ctx, root, coversAll))
			if took, serial := time.Since(begun), time.Duration(pages)*h.node.net.delay; took > serial/5 {
				t.Errorf("%s: %d pages took %s, one after the other they take %s", name, pages, took, serial)
			}
		})
	}
}

func TestSilentSessionsDoNotHoldUpPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTreeHarness(t)
		root := h.build(h.store, someVersions(20_000, 100))
		newcomer := slowly(h)
		dagSyncer := &sessionDAG{testNode: newcomer.service.(*testNode), blocks: 5}
		newcomer.service = dagSyncer
		begun := time.Now()
		h.must(newcomer.checkTree(ctx, root, coversAll))
		synctest.Wait()
		dagSyncer.mu.Lock()
		defer dagSyncer.mu.Unlock()
		if took := time.Since(begun); took > 5*sessionPatience || dagSyncer.begun != 1 || dagSyncer.open != 0 {
			t.Errorf("it took %s; of %d sessions %d are open", took, dagSyncer.begun, dagSyncer.open)
		}
	})
}

// Who stops reading leaves nothing behind: a bubble waits for all goroutines in it.
func TestReadingATreeEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTreeHarness(t)
		root := h.build(h.store, someVersions(40_000, 100))
		names := h.pagesOf(root)
		defer h.node.hide(t, names[len(names)/2].Cid())()
		for _, err := range h.store.treeEntries(ctx, root, 0) {
			h.must(err)
			break
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		begun := time.Now()
		if err := h.store.checkTree(short, root, coversAll); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		for _, at := range []int{1, 1000} {
			gone, cancel := context.WithCancel(ctx)
			n, last := 0, error(nil)
			for _, err := range h.store.treeEntries(gone, root, 0) {
				if n++; n == at {
					cancel()
				}
				last = err
			}
			cancel()
			if !errors.Is(last, context.Canceled) {
				t.Errorf("after %d of 40000 entries: %v", n, last)
			}
		}
	})
}

// A liar's pages take no more memory than pagesAhead says, though they are all of the
// greatest size, and full of entries.
func TestHostilePagesTakeLittleMemory(t *testing.T) {
	h := newTreeHarness(t)
	padding := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, maxPageSize-250_000))
	var pages []subtree
	for i := range 60 {
		var entries []entry
		for j := range largestPage / (entrySize + 16) {
			entries = append(entries, entry{key: fmt.Sprintf("/%05d%06d", i, j), id: blockN(i)})
		}
		pages = append(pages, h.leaf(func(m *pb.VersionsPage) { m.ProtoReflect().SetUnknown(padding) }, entries...))
	}
	top := h.inner(nil, pages...)
	before, most := heapInUse(), uint64(0)
	h.must(h.store.checkTree(ctx, top.root(), func(context.Context, blockID) (bool, error) {
		most = max(most, heapInUse())
		return true, nil
	}))
	if took := most - min(most, before); took > 64<<20 { // beside pages that have come: here they lie in the DAG service
		t.Errorf("%d bytes", took)
	}
	runtime.KeepAlive(h)
}

// A tree of any size is made in little memory.
func TestBuildingATreeTakesLittleMemory(t *testing.T) {
	b := newTreeBuilder(nothingKept{})
	before, most := heapInUse(), uint64(0)
	e := entry{value: make([]byte, 1000)}
	for i := range 100_000 {
		e.key, e.id = fmt.Sprintf("/%09d", i), blockN(i)
		if err := b.add(ctx, &e); err != nil {
			t.Fatal(err)
		}
		if i%10_000 == 0 {
			most = max(most, heapInUse())
		}
	}
	if took := most - min(most, before); took > 8<<20 {
		t.Errorf("%d bytes", took)
	}
	runtime.KeepAlive(b)
}
