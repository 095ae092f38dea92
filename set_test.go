package crdt

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

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
		for e, err := range h.store.rowsUnder(ctx, h.store.keys.tombstones, true, 0) {
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
	for _, supersede := range []bool{false, true} {
		t.Run(fmt.Sprintf("superseding=%v", supersede), func(t *testing.T) { writesCostTheSameForEver(t, supersede) })
	}
}

func writesCostTheSameForEver(t *testing.T, supersede bool) {
	store := newFaultyStore()
	r := newTestNet().newReplicaOn(t, store, func(o *Options) { o.RebroadcastInterval, o.SupersedingPuts = 1<<40, supersede })
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

func TestEqualPriorityGreatestValueWins(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/k", "abc")
	b.put("/k", "abd")
	net.heal()
	if got := converge(t, a, b)["/k"]; got != "abd" {
		t.Errorf("/k is %q, want the greater value", got)
	}
}

func TestEmptyValueSurvivesDeletionOfAConcurrentVersion(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/k", "")
	b.put("/k", "b")
	b.put("/other", "raises b's height")
	b.put("/k", "b2")
	b.del("/k")
	net.heal()
	if got, ok := converge(t, a, b)["/k"]; got != "" || !ok {
		t.Errorf("/k is %q (%v), want the empty value", got, ok)
	}
}

func TestDeleteOfManyVersionsNeverShowsAnOldValue(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.MaxBatchDeltaSize = 1000 })
	b := net.newReplica(t, func(o *Options) {
		o.PutHook = func(_ ds.Key, v []byte) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, string(v))
		}
	})
	for i := range 100 {
		a.put("/k", fmt.Sprintf("%03d", i))
	}
	converge(t, a, b)
	mu.Lock()
	seen = nil
	mu.Unlock()
	a.del("/k")
	if pairs := converge(t, a, b); len(pairs) != 0 {
		t.Errorf("left: %v", pairs)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) > 0 {
		t.Errorf("old values came back: %v", seen)
	}
	if h := a.InternalStats(ctx).MaxHeight; h < 102 {
		t.Errorf("100 tombstones of 1000 bytes at most a block made %d blocks in all", h)
	}
	if rows := append(a.rowsUnder("/s/l"), a.rowsUnder("/s/t")...); len(rows) > 0 {
		t.Errorf("%d rows are left of the versions", len(rows))
	}
}

func TestDeleteUncoversAConcurrentVersion(t *testing.T) {
	var mu sync.Mutex
	var events []string
	net := newTestNet()
	a := net.newReplica(t)
	b := net.newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { mu.Lock(); events = append(events, "put "+string(v)); mu.Unlock() }
		o.DeleteHook = func(k ds.Key) { mu.Lock(); events = append(events, "delete"); mu.Unlock() }
	})
	net.split(0, 1)
	a.put("/k", "z")
	b.put("/k", "y")
	net.split(0, 1, 2)
	c := net.newReplica(t)
	net.split(0, 1, 0) // c learns of a's version alone, and deletes it
	converge(t, a, c)
	c.del("/k")
	net.heal()
	if got := converge(t, a, b, c)["/k"]; got != "y" {
		t.Errorf("/k is %q, want the concurrent version", got)
	}
	mu.Lock()
	defer mu.Unlock()
	// b may learn of the deletion before it has seen the version.
	got := strings.Join(events, ", ")
	if got != "put y" && got != "put y, put z, delete, put y" {
		t.Errorf("hooks were told: %s", got)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(uint8(5), []byte{})
	f.Add(uint8(9), []byte("some deltas, in some order, in some groups"))
	f.Add(uint8(12), bytes.Repeat([]byte{0, 0xff, 0x80}, 40))
	for i := range uint8(20) {
		f.Add(11-i%3, []byte{i * 13})
	}
	f.Fuzz(func(t *testing.T, n uint8, input []byte) {
		rng := rand.New(&fuzzSource{input, rand.NewPCG(uint64(n), 7)})
		blocks := randomDeltas(rng, 1+int(n%12))
		model := make(modelSet)
		for _, b := range blocks {
			model.merge(b)
		}
		for range 2 {
			rng.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
			h := newSetHarness()
			for i := 0; i < len(blocks); {
				group := min(1+rng.IntN(4), len(blocks)-i)
				h.commit(t, blocks[i:i+group]...)
				i += group
			}
			if got, want := h.pairs(t), model.pairs(); !maps.Equal(got, want) {
				t.Fatalf("merged they are %v, want %v", got, want)
			}
		}
	})
}
