package crdt

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// turnRowTime is what a row takes to be read or written.
const turnRowTime = 20 * time.Microsecond

// A turnStore counts what is read and written while the turn is held: whoever wants to write
// waits for it.
type turnStore struct {
	ds.Batching
	turn chan struct{} // nil: not yet

	mu               sync.Mutex
	reads, mostReads int // rows, since the turn was taken, and at most
	mostRows         int // of one commit
}

func (s *turnStore) read() {
	time.Sleep(turnRowTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads++; len(s.turn) == cap(s.turn) {
		s.reads = 0 // nobody has it
	}
	s.mostReads = max(s.mostReads, s.reads)
}

func (s *turnStore) wrote(rows int) {
	time.Sleep(time.Duration(rows) * turnRowTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads, s.mostRows = 0, max(s.mostRows, rows)
}

func (s *turnStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	s.read()
	return s.Batching.Get(ctx, k)
}

func (s *turnStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	s.read()
	return s.Batching.Has(ctx, k)
}

func (s *turnStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &turnBatch{Batch: b, store: s}, err
}

type turnBatch struct {
	ds.Batch
	store *turnStore
	rows  int
}

func (b *turnBatch) Put(ctx context.Context, k ds.Key, v []byte) error {
	b.rows++
	return b.Batch.Put(ctx, k, v)
}

func (b *turnBatch) Delete(ctx context.Context, k ds.Key) error {
	b.rows++
	return b.Batch.Delete(ctx, k)
}

func (b *turnBatch) Commit(ctx context.Context) error {
	b.store.wrote(b.rows)
	return b.Batch.Commit(ctx)
}

// watch counts from now on.
func (s *turnStore) watch(r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = r.committer.turn
	s.reads, s.mostReads, s.mostRows = 0, 0, 0
}

// check checks that the turn has been held for moments alone.
func (s *turnStore) check(t *testing.T, what string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%s: at most %d rows read and %d written in one turn", what, s.mostReads, s.mostRows)
	const most = 640
	if s.mostReads > most || s.mostRows > most {
		t.Errorf("%s: %d rows were read and %d written in one turn, want %d at most", what, s.mostReads, s.mostRows, most)
	}
}

// Whatever is done about checkpoints, no Put waits for more than some rows.
func TestTurnIsHeldForMoments(t *testing.T) {
	for name, keys := range map[string]int{"few keys": 10, "many keys": 5000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { holdForMoments(t, keys) })
		})
	}
}

func holdForMoments(t *testing.T, keys int) {
	net := newTestNet()
	store, late := &turnStore{Batching: newAtomicStore()}, &turnStore{Batching: newAtomicStore()}
	r, laggard := net.newReplicaOn(t, store), net.newReplicaOn(t, late, func(o *Options) { o.DAGSyncerTimeout = time.Second })
	write := func(n int, value string) {
		for i := range n / 50 {
			b, err := r.Batch(ctx)
			r.must(err)
			for j := range 50 {
				r.must(b.Put(ctx, ds.NewKey(fmt.Sprint("/", (50*i+j)%keys)), []byte(value)))
			}
			r.must(b.Commit(ctx))
		}
	}
	write(5000, "old")
	converge(t, r, laggard)
	laggard.node.away(true)
	write(5000, "new")

	store.watch(r)
	c := r.checkpoint()
	store.check(t, "Checkpoint")
	store.watch(r)
	r.compact()
	store.check(t, "Compact")

	want := r.pairs()
	late.watch(laggard)
	laggard.node.away(false)
	laggard.awaitHeld(c)
	late.check(t, "take")
	if got := laggard.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %d pairs, want %d", len(got), len(want))
	}
}
