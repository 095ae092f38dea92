package crdt

import (
	"fmt"
	"testing"

	ds "github.com/ipfs/go-datastore"
)

// aheadOf has a replica read the records of so many keys ahead, /k/0 and so on.
func aheadOf(t *testing.T, r *replica, n int) *readAhead {
	t.Helper()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("/k/", i)
	}
	a, err := r.committer.readAhead(ctx, keys)
	r.must(err)
	return a
}

// usedBy returns the records of a commit that a reading is for, by their values.
func usedBy(r *replica, a *readAhead) map[string]string {
	values := make(map[string]string)
	r.must(r.committer.once(ctx, nil, func(now *commit) error {
		now.use(a)
		for key, k := range now.set.ahead {
			values[key] = ""
			if k.win != nil {
				values[key] = string(k.win.value)
			}
		}
		return nil
	}))
	return values
}

func TestReadAhead(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k/0", "old")
	r.put("/k/1", "old")
	a := aheadOf(t, r, fewKeys)
	r.put("/k/1", "new")
	r.put("/k/2", "new")
	used := usedBy(r, a)
	if len(used) != fewKeys-2 || used["/k/0"] != "old" {
		t.Errorf("a commit uses %d records of %d, two of which are out of date: %v", len(used), fewKeys, used)
	}
	if _, ok := used["/k/1"]; ok {
		t.Error("a commit uses the record of a key that has been written since")
	}
	if again := usedBy(r, a); len(again) > 0 {
		t.Errorf("a second commit uses %d records that the first may have changed", len(again))
	}
	if n := len(r.committer.ahead); n > 0 {
		t.Errorf("%d readings are left", n)
	}
}

// After a write that failed, and may have been made, nothing that was read before it counts.
func TestReadAheadOfFailedWrite(t *testing.T) {
	store := newFaultyStore()
	r := newTestNet().newReplicaOn(t, store, silent)
	a := aheadOf(t, r, fewKeys)
	store.failIn(0, 1, true)
	if err := r.Put(ctx, ds.NewKey("/k/1"), []byte("v")); err == nil {
		t.Fatal("the write has not failed")
	}
	store.heal()
	if used := usedBy(r, a); len(used) > 0 {
		t.Errorf("%d records are used", len(used))
	}
}

func TestFewKeysAreNotReadAhead(t *testing.T) {
	r := newTestNet().newReplica(t)
	if a := aheadOf(t, r, fewKeys-1); a != nil {
		t.Errorf("%d records were", len(a.keys))
	}
}
