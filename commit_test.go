package crdt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A write that fails, whether it takes effect or not, makes no replica forget
// which blocks it still has to fetch.
func TestFailedWriteLosesNoWantedBlocks(t *testing.T) {
	for _, batching := range []bool{true, false} {
		for _, effect := range []bool{true, false} {
			for n := range 16 {
				t.Run(fmt.Sprintf("batching=%v/effect=%v/%d", batching, effect, n), func(t *testing.T) {
					t.Parallel()
					failOnceWhileFetching(t, n, batching, effect)
				})
			}
		}
	}
}

func failOnceWhileFetching(t *testing.T, n int, batching, effect bool) {
	net := newTestNet()
	a := net.newReplica(t)
	faulty := newFaultyStore()
	var store ds.Datastore = faulty
	if !batching {
		store = plainStore{faulty}
	}
	b := net.newReplicaOn(t, store, silent)
	net.split(0, 1)
	for i := range 5 {
		a.put("/k", fmt.Sprint(i))
	}
	faulty.failIn(n, 1, effect)
	net.heal()
	converge(t, a, b)
	faulty.heal() // the fault may not have come yet
}

func TestFailedQueryBringsNoDeletedValueBack(t *testing.T) {
	net := newTestNet()
	liar := net.node()
	store := newFaultyStore()
	var failed atomic.Int64
	var fail atomic.Bool
	store.onQuery = func(q query.Query) error { // for tombstones
		if !fail.Load() || !strings.HasSuffix(q.Prefix, "/s/t") {
			return nil
		}
		failed.Add(1)
		return errFault
	}
	r := net.newReplicaOn(t, store, silent)
	element := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
	other := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/other")}))
	ids, err := cidsToIDs([]cid.Cid{element, other})
	r.must(err)
	fail.Store(true)
	// The tombstones come first: their block does not link to those of the elements.
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Tombstones: []*pb.Element{{Key: "/k", Id: ids[0].dsKey()}, {Key: "/other", Id: ids[1].dsKey()}}}))
	r.node.deliver(announcement(other)) // takes one of them away, so that they are looked for
	waitFor(t, "a query to fail", func() bool { return failed.Load() > 0 })
	r.node.deliver(announcement(element))
	r.awaitMerged(element)
	fail.Store(false)
	if got := r.get("/k"); got != "(none)" {
		t.Errorf("/k is %q, and was deleted", got)
	}
}

// A write that fails and takes effect all the same is told of soon, though no
// other commit comes.
func TestWriteThatOnlySeemedToFailIsToldOf(t *testing.T) {
	for _, kind := range []func(*faultyStore) ds.Datastore{
		func(s *faultyStore) ds.Datastore { return s },
		func(s *faultyStore) ds.Datastore { return plainStore{s} },
	} {
		synctest.Test(t, func(t *testing.T) {
			net := newTestNet()
			faulty := newFaultyStore()
			var hooked atomic.Int64
			a := net.newReplicaOn(t, kind(faulty), silent, func(o *Options) { o.PutHook = func(ds.Key, []byte) { hooked.Add(1) } })
			b := net.newReplica(t)
			faulty.failIn(0, 1, true)
			if err := a.Put(ctx, ds.NewKey("/k"), []byte("v")); !errors.Is(err, errFault) {
				t.Errorf("Put: %v", err)
			}
			time.Sleep(2 * retryPause)
			if got, n := b.get("/k"), hooked.Load(); got != "v" || n != 1 {
				t.Errorf("the other replica holds %q, %d hooks have run", got, n)
			}
		})
	}
}

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
