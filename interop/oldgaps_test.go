package interop

import (
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// chain has p put n keys and overwrite one more n times, in a block each, and gives the
// pairs that result.
func chain(p *peer, n int) pairs {
	p.t.Helper()
	want := pairs{}
	for i := range n {
		key, value := "/chain/"+string(rune('a'+i)), string(rune('z'-i))
		p.put(key, value)
		p.put("/last", value)
		want[key], want["/last"] = value, value
	}
	return want
}

// gappy gives an old store that has merged a head whose history it couldn't get, and a
// peer that has all of it.
func gappy(t *testing.T) (store, complete *peer, want pairs) {
	t.Helper()
	complete = start(t, old)
	forgetful := start(t, old)
	forgetful.connect(complete)
	want = chain(complete, 5)
	agree(t, want, forgetful)
	settled(t, forgetful, complete)
	forgetful.ask(wire.Request{Op: wire.Forget})
	forgetful.isolate()
	forgetful.rejoin()
	store = start(t, old)
	store.connect(forgetful)
	eventually(t, func() string {
		if !store.stats().Dirty {
			return "the store isn't marked dirty"
		}
		return ""
	})
	forgetful.kill()
	return store, complete, want
}

func TestAnOldStoreWithMissingBlocksGetsThem(t *testing.T) {
	store, complete, want := gappy(t)
	partial := store.pairs()
	store.close()
	opened := reopen(t, ours, store.dir)
	holds(t, partial, opened)
	opened.connect(complete)
	agree(t, want, opened)
	opened.put("/last", "!")
	opened.delete("/chain/a")
	delete(want, "/chain/a")
	agree(t, want.and(pairs{"/last": "!"}), opened, complete)
}

// By the time that an old store is opened, what it lacks may be nowhere any more but in a
// snapshot.
func TestAnOldStoreGetsFromASnapshotWhatItLacks(t *testing.T) {
	store, complete, want := gappy(t)
	store.close()
	complete.close()
	host := reopen(t, ours, complete.dir)
	if host.compact() == 0 {
		t.Fatal("nothing has been dropped")
	}
	opened := reopen(t, ours, store.dir)
	opened.connect(host)
	agree(t, want, opened)
	opened.put("/last", "!")
	opened.delete("/chain/a")
	delete(want, "/chain/a")
	agree(t, want.and(pairs{"/last": "!"}), opened, host)
	eventually(t, func() string {
		if opened.stats().Dirty {
			return "the store is still marked dirty"
		}
		return ""
	})
}

// The old module, when it repairs a store with missing blocks, writes the height of a
// block it fetched into the row of the head above. A replica that believed the row
// would give new writes too low a priority, and they would lose against old ones.
func TestWritesWinOnAnOldStoreWhoseHeadHeightIsTooLow(t *testing.T) {
	store, complete, want := gappy(t)
	store.connect(complete)
	agree(t, want, store)
	eventually(t, func() string {
		if store.stats().Dirty {
			return "the store is still marked dirty"
		}
		return ""
	})
	if low, high := store.stats().MaxHeight, complete.stats().MaxHeight; low >= high {
		t.Fatalf("the head's height is %d, the test needs one below %d", low, high)
	}
	store.close()
	opened := reopen(t, ours, store.dir)
	opened.put("/last", "!")
	holds(t, want.and(pairs{"/last": "!"}), opened)
	opened.connect(complete)
	agree(t, want.and(pairs{"/last": "!"}), opened, complete)
}
