package crdt

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// testID is the id of an invented block.
func testID(i int) blockID { return blockID{0: byte(i >> 8), 1: byte(i), 31: 1} }

// randomDeltas invents deltas that add and remove versions of a few keys. Some
// have a key twice, some remove what does not exist.
func randomDeltas(rng *rand.Rand, n int) []*block {
	blocks := make([]*block, n)
	for i := range blocks {
		d := &deltaContent{priority: pick[uint64](rng, 0, 1, 2, maxPriority, math.MaxUint64)}
		for range rng.IntN(4) {
			d.elements = append(d.elements, &pb.Element{Key: fmt.Sprintf("/k%d", rng.IntN(4)), Value: []byte{byte('a' + rng.IntN(3))}})
		}
		for range rng.IntN(4) {
			other := rng.IntN(n)
			if other == i {
				continue // a block cannot name itself
			}
			d.tombstones = append(d.tombstones, &pb.Element{Key: fmt.Sprintf("/k%d", rng.IntN(4)), Id: testID(other).dsKey()})
		}
		blocks[i] = &block{id: testID(i), delta: d}
	}
	return blocks
}

// setHarness merges invented blocks: their marks are kept beside the set.
type setHarness struct {
	store  *rowStore
	merged map[blockID]*block
}

func newSetHarness() *setHarness {
	keys := newKeyspace(ds.NewKey("/n"), InternalNamespaces{"h", "a", "s", "b", "d", "bs", "v"})
	store, err := newRowStore(ctx, newAtomicStore(), keys)
	if err != nil {
		panic(err)
	}
	return &setHarness{store: store, merged: make(map[blockID]*block)}
}

// commit merges blocks in one commit, fetching losers' values when asked to.
func (h *setHarness) commit(t *testing.T, blocks ...*block) {
	t.Helper()
	fetched := make(map[versionName]*loser)
	for {
		c := newSetChange(h.store, true, true)
		c.fetched = fetched
		now := make(map[blockID]bool)
		for _, b := range blocks {
			isMerged := func(id blockID) (bool, error) { return h.merged[id] != nil || now[id], nil }
			if err := c.merge(ctx, b.id, b.delta, isMerged); err != nil {
				t.Fatal(err)
			}
			now[b.id] = true
		}
		missing, err := c.settle(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(missing) == 0 {
			if err := h.store.write(ctx, c.rows()); err != nil {
				t.Fatal(err)
			}
			break
		}
		for _, n := range missing {
			if b := h.merged[n.id]; b != nil {
				fetched[n] = b.versions()[n.key]
			} else {
				t.Fatalf("the value of %s in block %v is asked for, which is not merged", n.key, n.id)
			}
		}
	}
	for _, b := range blocks {
		h.merged[b.id] = b
	}
}

func (h *setHarness) pairs(t *testing.T) map[string]string {
	t.Helper()
	pairs := make(map[string]string)
	for e, err := range h.store.rows(ctx, h.store.keys.records, false, 0) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := decodeRecord(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		checkLow(t, h.store, e.Key, r)
		pairs[e.Key] = string(r.value)
	}
	return pairs
}

// The same blocks give the same pairs in whatever order and grouping they are
// merged, and those are the pairs of the plain model, at every step.
func TestSetMergesInAnyOrder(t *testing.T) { mergeInAnyOrder(t, randomDeltas) }

func mergeInAnyOrder(t *testing.T, random func(rng *rand.Rand, n int) []*block) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 0))
		blocks := random(rng, 12)
		for range 3 {
			rng.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
			h, model := newSetHarness(), make(modelSet)
			for i := 0; i < len(blocks); {
				n := min(1+rng.IntN(4), len(blocks)-i)
				h.commit(t, blocks[i:i+n]...)
				for _, b := range blocks[i : i+n] {
					model.merge(b)
				}
				i += n
				if got, want := h.pairs(t), model.pairs(); !maps.Equal(got, want) {
					t.Fatalf("seed %d after %d blocks: has %v, want %v", seed, i, got, want)
				}
			}
		}
	}
}

// Tombstones leave nothing behind once their blocks are merged.
func TestSetForgetsTombstones(t *testing.T) {
	for seed := range uint64(50) {
		h := newSetHarness()
		for _, b := range randomDeltas(rand.New(rand.NewPCG(seed, 1)), 20) {
			h.commit(t, b)
		}
		for e, err := range h.store.rows(ctx, h.store.keys.tombstones, true, 0) {
			key, id, ok := splitID(e.Key)
			if err != nil || !ok || h.merged[id].versions()[key] != nil {
				t.Fatalf("seed %d: tombstone %s is left: %v", seed, e.Key, err)
			}
		}
	}
}

// A put, a merge and a get cost the same number of reads and writes however
// often the key was written and whatever keys lie below it.
func TestWritesCostTheSameForEver(t *testing.T) {
	store := newFaultyStore()
	r := newTestNet().newReplicaOn(t, store, func(o *Options) { o.RebroadcastInterval = 1 << 40 })
	cost := func(f func()) int {
		before := store.reads.Load() + store.writes.Load()
		f()
		return int(store.reads.Load() + store.writes.Load() - before)
	}
	// Every other block has a skip link, so take the most of several.
	costOfPuts := func() (most int) {
		for i := range 8 {
			most = max(most, cost(func() { r.put("/k", fmt.Sprint(i)) }))
		}
		return most
	}
	r.put("/k", "first")
	early := costOfPuts()
	for i := range 300 {
		r.put("/k", fmt.Sprint(i))
		r.put(fmt.Sprintf("/k/%d", i), "child")
	}
	if late := costOfPuts(); late > early {
		t.Errorf("a put cost %d reads and writes at first, and %d after 300", early, late)
	}
	liar := r.node.net.node()
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: maxPriority, Elements: oneElement("/top")}, r.head()))
	costOfPuts() // the values of some are greater
	if late := costOfPuts(); late > early+1 {
		t.Errorf("a put cost %d reads and writes at first, and %d once no greater priority is left", early, late)
	}
	r.del("/k")
	for range 300 {
		r.put("/k", "x")
		r.del("/k")
	}
	r.put("/k", "x")
	if late := cost(func() { r.del("/k") }); late > 10 {
		t.Errorf("deleting one version of a key with 300 children cost %d reads and writes", late)
	}
}

func TestSetViewBuildsDeltas(t *testing.T) {
	r := newTestNet().newReplica(t)
	s := r.Set()
	d, err := s.Rmv(ctx, "/k")
	if err != nil || !d.IsEmpty() {
		t.Errorf("removing what is not there: %v, %v", d, err)
	}
	d, err = s.Add(ctx, "/k", []byte("v"))
	if err != nil || d.IsEmpty() || d.Size() == 0 {
		t.Errorf("Add: %v, %v", d, err)
	}
	if ok, _ := s.InSet(ctx, "/k"); ok {
		t.Error("Add changed the set")
	}
	_, err = r.Publish(ctx, d)
	r.must(err)
	if v, err := s.Element(ctx, "/k"); string(v) != "v" || err != nil {
		t.Errorf("Element: %s, %v", v, err)
	}
	d, err = s.Rmv(ctx, "/k")
	r.must(err)
	_, err = r.Publish(ctx, d)
	r.must(err)
	if _, err := s.Element(ctx, "/k"); !errors.Is(err, ds.ErrNotFound) {
		t.Errorf("Element after removal: %v", err)
	}
	if _, err := s.Add(ctx, "/", nil); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("Add of the root key: %v", err)
	}
	if err := s.Merge(ctx, d, "/nonsense"); err == nil {
		t.Error("Merge took an id that names no block")
	}
}

func TestDeltaWithAKeyTwice(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for i, values := range [][]string{{"x", "z", "y"}, {"3", "1"}} {
		d := newPBDelta()
		var elements []*pb.Element
		for _, v := range values {
			elements = append(elements, &pb.Element{Key: fmt.Sprintf("/%d", i), Value: []byte(v)})
		}
		d.SetElements(elements)
		_, err := a.Publish(ctx, d)
		a.must(err)
	}
	if got := converge(t, a, b); got["/0"] != "z" || got["/1"] != "3" {
		t.Errorf("pairs: %v", got)
	}
}

func TestCustomDelta(t *testing.T) {
	net := newTestNet()
	node := net.node()
	m, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, node, testOptions(), &MerkleCRDTOptions{
		DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} },
		Namespaces:   InternalNamespaces{Heads: "tops", Set: "pairs"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d, err := m.Set().Add(ctx, "/k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	d.(*labelled).label = 'L'
	h, err := m.Publish(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Get(ctx, h.Cid)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.blocks.parse(blockID(h.Cid.Hash()[2:]), n.RawData())
	if err != nil || len(b.delta.elements) != 1 {
		t.Errorf("the block does not read back: %v", err)
	}
	if err := m.Put(ctx, ds.NewKey("/plain"), []byte("v")); err != nil {
		t.Errorf("Put beside custom deltas: %v", err)
	}
	if _, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, nil, nil, &MerkleCRDTOptions{Namespaces: InternalNamespaces{Heads: "q"}}); err == nil {
		t.Error("a namespace that is taken was accepted")
	}
}

// labelled is a delta of an application: one byte more than the default.
type labelled struct {
	*pbDelta
	label byte
}

func (l *labelled) Marshal() ([]byte, error) {
	b, err := l.pbDelta.Marshal()
	return append([]byte{l.label}, b...), err
}

func (l *labelled) Unmarshal(b []byte) error {
	if len(b) == 0 {
		return errors.New("no label")
	}
	l.label = b[0]
	return l.pbDelta.Unmarshal(b[1:])
}
