package crdt

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
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

// A block stays as long as the merger is about to read a value from it, too: nothing says how
// long a request takes for what is nowhere.
func TestCompactWaitsForTheMerger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 0 })
		r.put("/k", "old")
		old := r.head()
		r.put("/k", "new")
		winner := r.head()
		r.untidyCheckpoint() // or it would remove the old one
		gate := &gatedDAG{DAGService: r.node, of: old, open: make(chan struct{})}
		r.reopenWith(gate, nil)
		c := r.offer(net.node(), &pb.Delta{Priority: 10, Tombstones: []*pb.Element{tombstoneOf(t, "/k", winner)}})
		synctest.Wait() // it reads the old value
		if !gate.waiting.Load() {
			t.Fatal("nobody reads")
		}
		compacted := make(chan error)
		go func() { _, err := r.Compact(ctx); compacted <- err }()
		synctest.Wait()
		close(gate.open)
		r.must(<-compacted)
		time.Sleep(time.Hour)
		if s := r.state(c); s != complete {
			t.Errorf("the block is %d after an hour", s)
		}
		if got := r.get("/k"); got != "old" {
			t.Errorf("Get: %q", got)
		}
	})
}

// Datastores of different topics may share a DAG service. The page of an empty snapshot is the
// same for all.
func TestCompactLeavesTheEmptyPageOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dag := newTestNet().node()
		var sharing []*replica
		for range 2 {
			r := newTestNet().newReplica(t)
			r.node.net.mu.Lock()
			r.node.blocks = dag.blocks
			r.node.net.mu.Unlock()
			r.put("/k", "v")
			r.del("/k")
			r.checkpoint()
			r.compact()
			sharing = append(sharing, r)
		}
		for _, r := range sharing {
			r.put("/k", "v")
			r.checkpoint() // rests on the empty one
			r.compact()
		}
	})
}
