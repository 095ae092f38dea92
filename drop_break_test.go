package crdt

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	ipld "github.com/ipfs/go-ipld-format"
)

// Tests of what happens beside a drop, or after one that was cut off.

// A syncStore fails one Sync, and knows what the last one has made durable.
type syncStore struct {
	ds.Batching
	t *testing.T

	mu     sync.Mutex
	failIn int // Syncs until one fails; negative: none does
	synced map[string]string
}

func (s *syncStore) setFailIn(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failIn = n
}

func (s *syncStore) Sync(ctx context.Context, k ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failIn--; s.failIn == -1 {
		return errFault
	}
	s.synced = dump(s.t, s.Batching)
	return s.Batching.Sync(ctx, k)
}

// A durableDAG checks that what is removed from it is not needed after a power cut.
type durableDAG struct {
	ipld.DAGService
	store *syncStore
}

func (d *durableDAG) Remove(ctx context.Context, c cid.Cid) error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if now := dump(d.store.t, d.store.Batching); !maps.Equal(now, d.store.synced) {
		d.store.t.Errorf("%s is removed before a Sync\n%s", c, diff(now, d.store.synced))
	}
	return d.DAGService.Remove(ctx, c)
}

// Nothing is removed from the DAG service that a power cut would make the store count on,
// also when a Sync fails, and what it was for is done later.
func TestCompactSyncsBeforeItRemoves(t *testing.T) {
	for failIn := range 3 {
		for _, restart := range []bool{false, true} {
			store := &syncStore{Batching: newAtomicStore(), t: t, failIn: -1}
			r := newTestNet().newReplicaOn(t, store, silent)
			r.put("/a", "v")
			r.checkpoint()
			r.put("/k", "v")
			c := r.checkpoint()
			dag := &durableDAG{r.node, store}
			r.reopenWith(dag, nil)
			store.setFailIn(failIn)
			if _, err := r.Compact(ctx); errors.Is(err, errFault) != (failIn < 2) {
				t.Fatalf("Sync %d: %v", failIn, err)
			}
			store.setFailIn(-1)
			if restart {
				r.reopenWith(dag, nil)
			}
			r.compact()
			r.checkDropped(c.Cid)
		}
	}
}
