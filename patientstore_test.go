package crdt

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// patientStore takes its time for reads, and more for commits. No read and no query falls
// into the middle of a commit.
type patientStore struct {
	ds.Batching
	mu sync.RWMutex // not held while time passes, which would stand still then

	rngMu sync.Mutex
	rng   *rand.Rand
}

// dawdle lets others go ahead. Some of them go on at the same moment.
func (s *patientStore) dawdle(most int) {
	s.rngMu.Lock()
	pause := time.Duration(s.rng.IntN(most)) * time.Microsecond
	s.rngMu.Unlock()
	time.Sleep(pause)
}

func (s *patientStore) reading() (end func()) {
	s.dawdle(10)
	s.mu.RLock()
	return func() { s.mu.RUnlock(); s.dawdle(10) }
}

func (s *patientStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	defer s.reading()()
	return s.Batching.Get(ctx, k)
}

func (s *patientStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	defer s.reading()()
	return s.Batching.Has(ctx, k)
}

func (s *patientStore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	defer s.reading()()
	return s.Batching.GetSize(ctx, k)
}

func (s *patientStore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	defer s.reading()()
	return s.Batching.Query(ctx, q)
}

func (s *patientStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &patientBatch{b, s}, err
}

type patientBatch struct {
	ds.Batch
	store *patientStore
}

func (b *patientBatch) Commit(ctx context.Context) error {
	b.store.dawdle(100)
	defer b.store.dawdle(50)
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	return b.Batch.Commit(ctx)
}
