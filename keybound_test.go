package crdt

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	ds "github.com/ipfs/go-datastore"
)

// A newcomer that takes a checkpoint does not look for what it cannot have; nor does one
// that writes keys in ascending order.
func TestNoRecordIsLookedForAboveAll(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	c := s.checkpoint(t)
	store := &readCountingStore{Batching: newAtomicStore(), part: "/s/r/"}
	r := s.net.newReplicaOn(t, store)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	r.put("/m1", "above all")
	r.put("/m2", "above all")
	if n := store.gets.Load(); n > 0 {
		t.Errorf("it looked for %d records", n)
	}
	r.put("/m1", "again")
	if store.gets.Load() == 0 {
		t.Error("it did not look for a record that is there")
	}
}

// What is known of the keys holds whatever writes fail, in effect or not, and in whatever
// order keys are written.
func TestKeyBoundHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(50) {
			rng := rand.New(rand.NewPCG(seed, 1))
			store := newFaultyStore()
			r := newTestNet().newReplicaOn(t, store)
			want := make(map[string]string)
			for i := range 30 {
				if rng.IntN(4) == 0 {
					store.failIn(rng.IntN(3), 1, rng.IntN(2) == 0)
				}
				key, value := fmt.Sprintf("/%02d", i/2+rng.IntN(4)), fmt.Sprint(i)
				if err := r.Put(ctx, ds.NewKey(key), []byte(value)); err != nil {
					store.heal()
					value = r.pairs()[key] // as it may be
				}
				want[key] = value
				checkKeyBound(t, r)
			}
			store.heal()
			for key, value := range want {
				if got := r.pairs()[key]; got != value && value != "" {
					t.Errorf("seed %d: %s is %q, want %q", seed, key, got, value)
				}
			}
		}
	})
}

// checkKeyBound checks that no key has a record that it should not have.
func checkKeyBound(t *testing.T, r *replica) {
	t.Helper()
	c := r.Datastore.committer
	if c.acquire(ctx) != nil {
		return
	}
	defer c.release()
	for e, err := range c.store.rowsUnder(ctx, c.store.keys.records, true, 0) {
		if err != nil || !c.stale && c.bound.excludes(e.Key) {
			t.Errorf("%s has a record and is above %q: %v", e.Key, c.bound.key, err)
		}
	}
}
