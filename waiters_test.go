package crdt

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
)

// Blocks that wait are added and removed at random, and found again, as a plain map
// has them. What is written for one of them does not depend on how many there are.
func TestWaiters(t *testing.T) {
	for seed := range 50 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(seed), 9))
			newWaitersTest(t, rng, 1+rng.IntN(3*fewWaiters)).run(rng)
		})
	}
}

type waitersTest struct {
	t      *testing.T
	store  *rowStore
	faults *faultyStore
	child  blockID
	all    []blockID // that may wait
	model  map[blockID]bool
}

func newWaitersTest(t *testing.T, rng *rand.Rand, n int) *waitersTest {
	names, err := InternalNamespaces{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	faults := newFaultyStore()
	w := &waitersTest{t: t, faults: faults, store: &rowStore{Datastore: faults, keys: newKeyspace(testNamespace, names), batching: faults}, model: make(map[blockID]bool)}
	for range n {
		var id blockID
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		w.all = append(w.all, id)
	}
	return w
}

func (w *waitersTest) run(rng *rand.Rand) {
	for range 200 {
		w.commit(rng.IntN(3), func(found *waiters) {
			id := pick(rng, w.all...)
			if w.model[id] {
				delete(w.model, id)
				found.remove(id)
			} else {
				w.model[id] = true
				found.add(id)
			}
		})
	}
	for id := range maps.Clone(w.model) {
		w.commit(1, func(found *waiters) { delete(w.model, id); found.remove(id) })
	}
	w.commit(0, nil)
	if found, err := w.store.hasAny(ctx, w.store.keys.waiting); found || err != nil {
		w.t.Errorf("rows are left: %v", err)
	}
}

// commit makes some changes in one commit. Before and after all are looked for.
func (w *waitersTest) commit(n int, change func(*waiters)) {
	c := newDAGChange(w.store, &frontier{}, &checkpointsChange{}, maxSpread)
	w.check(c)
	for range n {
		found, err := c.waiters(ctx, w.child)
		if err != nil {
			w.t.Fatal(err)
		}
		change(found)
	}
	w.check(c)
	if err := w.store.write(ctx, c.rows()); err != nil {
		w.t.Fatal(err)
	}
	if rows, size := w.faults.maxRows.Load(), w.faults.maxBytes.Load(); rows > 3 || size > fewWaiters*int64(len(blockID{}))+1 {
		w.t.Errorf("%d rows of %d bytes were written", rows, size)
	}
}

func (w *waitersTest) check(c *dagChange) {
	for _, limit := range []int{0, 5, fewWaiters, len(w.all)} {
		got, err := c.parents(ctx, w.child, limit)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(got) <= limit && !slices.Equal(got, sortIDs(slices.Collect(maps.Keys(w.model)))) || len(got) > len(w.model) {
			w.t.Fatalf("of %d blocks that wait %d are found, at a limit of %d", len(w.model), len(got), limit)
		}
	}
}

// A store of an earlier build has a row for each block that waits, and no others.
func TestStoreWithoutWaiters(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	child := liar.forgePriority(t, 1)
	show := liar.hide(t, child)
	for i := range uint64(3) {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 2 + i, Elements: oneElement(fmt.Sprint("/", i))}, child))
	}
	r.must(r.Close())
	for _, e := range r.rowsUnder("/p/w") {
		_, id, _ := splitID(e.Key)
		w, ok := decodeWaiters(e.Value)
		if !ok || len(w.few) != 3 {
			t.Errorf("the row of waiters is %x", e.Value)
		}
		for _, parent := range w.few {
			r.must(r.store.Put(ctx, r.Datastore.store.keys.wait(id, parent), nil))
		}
		r.must(r.store.Delete(ctx, ds.RawKey(e.Key)))
	}
	r.open()
	show()
	waitFor(t, "heads", func() bool { n, _ := r.Heads().Len(ctx); return n == 3 })
}

// Next to no query is made to merge what honest replicas write, old or new, in any
// order: on some stores it takes as long as there are rows.
func TestMergesDoNotQuery(t *testing.T) {
	t.Run("a history", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net := newTestNet()
			a, b := net.newReplica(t), net.newReplica(t)
			for i := range 200 {
				if i%20 == 0 {
					synctest.Wait()
				}
				a.put(fmt.Sprint("/k", i%50), fmt.Sprint(i))
				b.put(fmt.Sprint("/k", i%50), fmt.Sprint(i))
			}
			newcomer, queries := net.newCountingReplica(t)
			before := queries.Load()
			converge(t, a, b, newcomer)
			// converge makes one, and so does a block that more than fewWaiters others wait
			// for, which in such a history there may be.
			if n := queries.Load() - before - 1; n > 4 {
				t.Errorf("%d queries to merge 400 blocks", n)
			}
		})
	})
	t.Run("a history with a tombstone for what nobody has", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net := newTestNet()
			a := net.newReplica(t)
			b, queries := net.newCountingReplica(t)
			id, err := blockIDOf(unavailable(0))
			b.must(err)
			b.awaitMerged(b.offer(net.node(), &pb.Delta{Priority: 1, Tombstones: tombstonesFor("/k", []blockID{id})}))
			before := queries.Load()
			for i := range 50 {
				a.put("/k", fmt.Sprint(i))
				synctest.Wait()
			}
			if n := queries.Load() - before; n > 0 {
				t.Errorf("%d queries", n)
			}
		})
	})
	t.Run("updates", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net := newTestNet()
			var replicas []*replica
			var queries []*atomic.Int64
			for range 10 {
				r, n := net.newCountingReplica(t)
				replicas, queries = append(replicas, r), append(queries, n)
			}
			before := total(queries)
			var writers sync.WaitGroup
			for _, r := range replicas {
				writers.Go(func() {
					for i := range 50 {
						r.put(fmt.Sprint("/k", i), fmt.Sprint(r.node.rand.Uint64()))
					}
				})
			}
			writers.Wait()
			converge(t, replicas...)
			if n := total(queries) - before - int64(len(replicas)); n > 0 {
				t.Errorf("%d queries", n)
			}
		})
	})
}

func total(counts []*atomic.Int64) (n int64) {
	for _, c := range counts {
		n += c.Load()
	}
	return n
}

// newCountingReplica returns a replica, and how many queries its store has been asked.
func (n *testNet) newCountingReplica(t *testing.T) (*replica, *atomic.Int64) {
	store, queries := newFaultyStore(), &atomic.Int64{}
	store.onQuery = func(query.Query) error {
		queries.Add(1)
		return nil
	}
	return n.newReplicaOn(t, store), queries
}
