package crdt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// countingStore counts the reads and writes of rows.
type countingStore struct {
	ds.Batching
	reads, writes atomic.Int64
}

func (s *countingStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	s.reads.Add(1)
	return s.Batching.Get(ctx, k)
}

func (s *countingStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	s.reads.Add(1)
	return s.Batching.Has(ctx, k)
}

func (s *countingStore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	res, err := s.Batching.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	return query.ResultsFromIterator(q, query.Iterator{
		Next:  func() (query.Result, bool) { s.reads.Add(1); return res.NextSync() },
		Close: res.Close,
	}), nil
}

func (s *countingStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &countingBatch{b, s}, err
}

type countingBatch struct {
	ds.Batch
	store *countingStore
}

func (b *countingBatch) Put(ctx context.Context, k ds.Key, v []byte) error {
	b.store.writes.Add(1)
	return b.Batch.Put(ctx, k, v)
}

func (b *countingBatch) Delete(ctx context.Context, k ds.Key) error {
	b.store.writes.Add(1)
	return b.Batch.Delete(ctx, k)
}

var errDied = errors.New("the store has died")

// mortalStore fails every write after the first few, as if the process had
// been killed there. A batch is written whole or not at all.
type mortalStore struct {
	ds.Batching
	left atomic.Int64 // writes until it dies
}

func (s *mortalStore) dead() bool { return s.left.Add(-1) < 0 }

func (s *mortalStore) Put(ctx context.Context, k ds.Key, v []byte) error {
	if s.dead() {
		return errDied
	}
	return s.Batching.Put(ctx, k, v)
}

func (s *mortalStore) Delete(ctx context.Context, k ds.Key) error {
	if s.dead() {
		return errDied
	}
	return s.Batching.Delete(ctx, k)
}

func (s *mortalStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &mortalBatch{b, s}, err
}

type mortalBatch struct {
	ds.Batch
	store *mortalStore
}

func (b *mortalBatch) Commit(ctx context.Context) error {
	if b.store.dead() {
		return errDied
	}
	return b.Batch.Commit(ctx)
}

// Killed at any write, a replica reopens to a state it had, keeps all that it
// acknowledged, and converges with one that was never killed.
func TestKilledAtAnyWrite(t *testing.T) {
	for _, batching := range []bool{true, false} {
		for n := range int64(80) {
			t.Run(fmt.Sprintf("batching=%v/%d", batching, n), func(t *testing.T) { t.Parallel(); killAfter(t, n, batching) })
		}
	}
}

func killAfter(t *testing.T, writes int64, batching bool) {
	net := newTestNet()
	other := net.newReplica(t)
	mortal := &mortalStore{Batching: newAtomicStore()}
	mortal.left.Store(1 << 40)
	var store ds.Datastore = mortal
	if !batching {
		store = plainStore{mortal}
	}
	r := net.newReplicaOn(t, store, silent)
	rng := rand.New(rand.NewPCG(uint64(writes), 3))
	mortal.left.Store(writes)
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
	mortal.left.Store(1 << 40)
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
	mortal := &mortalStore{Batching: newAtomicStore()}
	mortal.left.Store(1 << 40)
	r := net.newReplicaOn(t, mortal, silent)
	r.put("/before", "v")
	mortal.left.Store(0)
	if err := r.Put(ctx, ds.NewKey("/failed"), nil); !errors.Is(err, errDied) {
		t.Errorf("Put: %v", err)
	}
	other.put("/other", "v")
	mortal.left.Store(1 << 40)
	r.put("/after", "v")
	if got := converge(t, r, other); len(got) != 3 {
		t.Errorf("pairs: %v", got)
	}
}
