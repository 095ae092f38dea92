package crdt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	ds "github.com/ipfs/go-datastore"
)

// Killed at any write, a replica reopens to a state it had, keeps all that it
// acknowledged, and converges with one that was never killed.
func TestKilledAtAnyWrite(t *testing.T) {
	for _, batching := range []bool{true, false} {
		for n := range 80 {
			t.Run(fmt.Sprintf("batching=%v/%d", batching, n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { killAfter(t, n, batching) })
			})
		}
	}
}

func killAfter(t *testing.T, writes int, batching bool) {
	net := newTestNet()
	other := net.newReplica(t)
	mortal := newFaultyStore()
	var store ds.Datastore = mortal
	if !batching {
		store = plainStore{mortal}
	}
	r := net.newReplicaOn(t, store, silent)
	rng := rand.New(rand.NewPCG(uint64(writes), 3))
	mortal.dieAfter(writes)
	kept := make(map[string]string)
	for i := range 40 {
		other.put(fmt.Sprintf("/other/%d", i%5), fmt.Sprint(i))
		key, value := fmt.Sprintf("/mine/%d", rng.IntN(5)), fmt.Sprint(i)
		if rng.IntN(3) == 0 {
			if r.Delete(ctx, ds.NewKey(key)) != nil {
				delete(kept, key)
				break
			}
			kept[key] = "(none)"
		} else {
			if r.Put(ctx, ds.NewKey(key), []byte(value)) != nil {
				delete(kept, key) // either is right for the last one
				break
			}
			kept[key] = value
		}
	}
	_ = r.Close() // cannot write any more
	mortal.heal()
	r.open()
	for k, v := range kept {
		if got := r.get(k); got != v {
			t.Errorf("%s is %s after the crash, %s was acknowledged", k, got, v)
		}
	}
	r.put("/after", "v")
	converge(t, r, other)
}

// A store that fails for a while is used again when it works again.
func TestStoreThatFailsForAWhile(t *testing.T) {
	net := newTestNet()
	other := net.newReplica(t)
	mortal := newFaultyStore()
	r := net.newReplicaOn(t, mortal, silent)
	r.put("/before", "v")
	mortal.dieAfter(0)
	if err := r.Put(ctx, ds.NewKey("/failed"), nil); !errors.Is(err, errDied) {
		t.Errorf("Put: %v", err)
	}
	other.put("/other", "v")
	mortal.heal()
	r.put("/after", "v")
	if got := converge(t, r, other); len(got) != 3 {
		t.Errorf("pairs: %v", got)
	}
}
