package crdt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// A replica that is killed while it stages segments stages them again, or sweeps away what
// is there, and so does one that is killed while it sweeps.
func TestStagingMayBeCutOffAtAnyWrite(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			node := newTestNet().newReplica(t).node
			for writes := 0; !t.Failed(); writes++ {
				if !stageAndDie(t, node, plain, writes) {
					return
				}
			}
		})
	}
}

func stageAndDie(t *testing.T, node *testNode, plain bool, writes int) (died bool) {
	t.Helper()
	c := &cutTest{t: t, old: &oldStore{}, node: node, plain: plain}
	store := newAtomicStore()
	r := &replica{t: t, node: node, store: store, opts: testOptions()}
	silent(r.opts)
	r.open()
	segments := r.extend(hashedIDs(3000, 100), r.extend(hashedIDs(0, 3000)))
	r.holdSegments(segments[:1])
	r.must(r.Close())

	r.store = c.mortal(store, writes)
	m, err := NewMerkleCRDT(r.store, testNamespace, node, nil, r.opts, nil)
	if err == nil {
		err = m.committer.stageSegments(ctx, segments)
	}
	if err == nil {
		err = m.committer.sweepSegments(ctx)
	}
	if m != nil {
		err = errors.Join(err, m.Close())
	}
	if err != nil && !errors.Is(err, errDied) {
		t.Fatalf("write %d: %s", writes+1, err)
	}
	r.store = store
	r.open()
	checkRows(t, r)
	if writes%2 == 0 {
		r.must(r.committer.sweepSegments(ctx))
		checkRows(t, r)
		if rows := r.rowsUnder("/w/s/" + segments[1].root.String()); len(rows) > 0 || len(dump(t, store)["/crdt/w/s"]) > 0 {
			t.Errorf("cut off at write %d, %d rows are left", writes+1, len(rows))
		}
	}
	r.holdSegments(segments)
	r.isCovered(hashedID(3099).Cid(), true)
	r.must(r.Close())
	checkStore(t, r)
	return err != nil
}

// Segments that no checkpoint has any more are spare at once.
func TestSegmentsThatAreLetGoAreSpare(t *testing.T) {
	r := newTestNet().newReplica(t)
	first := r.extend(hashedIDs(0, 100))
	r.holdSegments(first)
	r.holdSegments(r.extend(hashedIDs(100, 100)))
	spare, err := r.Datastore.store.readSpare(ctx)
	r.must(err)
	if !slices.Contains(spare, first[0]) {
		t.Errorf("spare are %v, without %v", spare, first)
	}
	r.restart()
	r.must(r.committer.sweepSegments(ctx))
	if rows := r.rowsUnder("/w/s" + first[0].root.dsKey()); len(rows) > 0 {
		t.Errorf("%d rows are left", len(rows))
	}
	r.isCovered(hashedID(100).Cid(), true)
}

// A hostileCover is a cover as no honest replica makes it.
type hostileCover struct {
	*testNode
	t *testing.T
}

// page adds a page, whatever it is.
func (h hostileCover) page(data []byte, links ...blockID) blockID {
	h.t.Helper()
	names := make([]pageName, len(links))
	for i, id := range links {
		names[i].id = id
	}
	id, err := addCoverPage(ctx, &blockStore{service: h}, data, names)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func packed(ids ...coverID) (b []byte) {
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

func TestHostileSegments(t *testing.T) {
	r := newTestNet().newReplica(t)
	h := hostileCover{r.node, t}
	ids := hashedIDs(0, leafIDs+1)
	leaf := h.page(packed(ids[:leafIDs]...))
	last := h.page(packed(ids[leafIDs]))
	inner := h.page(nil, leaf, last)
	if err := r.committer.stageSegments(ctx, []segment{{inner, leafIDs + 1}}); err != nil {
		t.Errorf("an honest one: %s", err)
	}
	endless := h.page(nil, slices.Repeat([]blockID{inner}, pageLinks)...)
	swapped := slices.Clone(ids[:3])
	slices.Reverse(swapped)
	for name, s := range map[string][]segment{
		"unsorted":               {{h.page(packed(swapped...)), 3}},
		"an id twice":            {{h.page(packed(ids[0], ids[0])), 2}},
		"pages in another order": {{h.page(nil, last, leaf), leafIDs + 1}},
		"fewer ids than said":    {{last, 2}},
		"more ids than said":     {{leaf, leafIDs - 1}},
		"more pages than said":   {{inner, leafIDs}},
		"fewer pages than said":  {{inner, 2*leafIDs + 1}},
		"a page in itself":       {{endless, capacity(2)}},
		"one leaf again":         {{h.page(nil, leaf, leaf), 2 * leafIDs}},
		"half an id":             {{h.page(packed(ids[0])[:8]), 1}},
		"a leaf with links":      {{h.page(packed(ids[0]), leaf), 1}},
		"an inner page with ids": {{h.page(packed(ids[0]), leaf, last), leafIDs + 1}},
		"segments that overlap":  {{leaf, leafIDs}, {h.page(packed(ids[9])), 1}},
		"not a page of a cover":  {{h.addRawPage([]byte("not a dag-pb node")), 1}},
		"too large":              {{h.page(make([]byte, maxPageSize+1)), 1 << 16}},
	} {
		if err := r.committer.stageSegments(ctx, s); !errors.Is(err, errBadSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.must(r.committer.sweepSegments(ctx))
}

func (h hostileCover) addRawPage(raw []byte) blockID {
	h.t.Helper()
	id := blockID(sha256.Sum256(raw))
	if err := h.addRaw(id.Cid(), raw); err != nil {
		h.t.Fatal(err)
	}
	return id
}

// linkToValue is a cover that links to a page of another kind.
func (h hostileCover) linkToValue(id blockID) blockID {
	h.t.Helper()
	raw, err := encodePage([]byte{1}, []pageName{{id, true}})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.addRawPage(raw)
}

func TestHostileCovers(t *testing.T) {
	r := newTestNet().newReplica(t)
	h := hostileCover{r.node, t}
	root := h.page(packed(hashedIDs(0, 1)...))
	sizes := func(of ...uint64) (b []byte) {
		for _, n := range of {
			b = binary.AppendUvarint(b, n)
		}
		return b
	}
	roots := make([]blockID, maxSegments+1)
	falling := make([]uint64, len(roots))
	for i := range roots {
		roots[i], falling[i] = testID(i), max(uint64(maxSegmentIDs)>>(2*i), 1)
	}
	for name, cover := range map[string]blockID{
		"a segment twice":     h.page(sizes(4, 1), root, root),
		"segments alike":      h.page(sizes(7, 2), root, h.page(packed(hashedIDs(0, 2)...))),
		"no size":             h.page(nil, root),
		"more sizes":          h.page(sizes(1, 1), root),
		"an empty segment":    h.page(sizes(0), root),
		"a segment too large": h.page(sizes(maxSegmentIDs+1), root),
		"a size without end":  h.page([]byte{0x80}, root),
		"too many segments":   h.page(sizes(falling...), roots...),
		"not a page":          h.addRawPage([]byte("whatever")),
		"a link to a value":   h.linkToValue(root),
	} {
		if _, err := r.Datastore.blocks.readCover(ctx, cover); !errors.Is(err, errBadSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.node.lose(root.Cid())
	limited, cancel := context.WithTimeout(ctx, time.Second/10)
	defer cancel()
	if _, err := r.Datastore.blocks.readCover(limited, root); err == nil || errors.Is(err, errBadSnapshot) {
		t.Errorf("a page that is not here: %v", err)
	}
}

func FuzzCover(f *testing.F) {
	f.Add([]byte{1}, uint64(1))
	sink := &pageKeeper{}
	blocks := &blockStore{}
	two, err := blocks.extendCover(ctx, sink, nil, 2, streamOf(hashedIDs(0, 2)))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := blocks.writeCover(ctx, sink, two); err != nil {
		f.Fatal(err)
	}
	inner, err := encodePage(nil, []pageName{{id: testID(1)}, {id: testID(2)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sink.pages[0].data, uint64(2))
	f.Add(sink.pages[1].data, uint64(1))
	f.Add(inner, uint64(leafIDs+1))
	f.Fuzz(func(t *testing.T, raw []byte, ids uint64) {
		if segments, err := decodeCover(raw); err == nil {
			again := &pageKeeper{}
			root, err := blocks.writeCover(ctx, again, segments)
			if read, readErr := decodeCover(again.pages[0].data); err != nil || readErr != nil || !slices.Equal(read, segments) {
				t.Errorf("%v is written as %s, and read as %v: %v, %v", segments, root.Cid(), read, err, readErr)
			}
		}
		ids = ids%maxSegmentIDs + 1
		top := segment{ids: ids}.top()
		var n uint64
		var err error
		if top.level == 0 {
			var leaf []byte
			leaf, err = top.leaf(raw)
			n = uint64(len(leaf) / len(coverID{}))
		} else {
			var below []coverPage
			below, err = top.below(raw)
			for _, p := range below {
				n += p.ids
			}
		}
		if err == nil && n != ids || err != nil && !errors.Is(err, errBadSnapshot) {
			t.Errorf("a page of %d ids has %d: %v", ids, n, err)
		}
	})
}

// A pageKeeper is a pageSink that keeps pages.
type pageKeeper struct{ pages []page }

func (k *pageKeeper) addPages(_ context.Context, pages []page) error {
	k.pages = append(k.pages, pages...)
	return nil
}
