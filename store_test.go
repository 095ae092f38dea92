package crdt

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// A memoryStore is a store with atomic batches that finds the rows under a
// prefix without looking at the others.
type memoryStore struct {
	mu    sync.Mutex
	rows  map[string][]byte // nil: deleted, but still among keys or fresh
	keys  []string          // of rows, sorted
	fresh []string          // likewise, those that are not among keys yet
	gone  int               // how many of rows are nil
}

func newAtomicStore() ds.Batching { return &memoryStore{rows: make(map[string][]byte)} }

func (s *memoryStore) Get(_ context.Context, k ds.Key) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.rows[k.String()]; v != nil {
		return v, nil
	}
	return nil, ds.ErrNotFound
}

func (s *memoryStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	_, err := s.Get(ctx, k)
	return err == nil, nil
}

func (s *memoryStore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	v, err := s.Get(ctx, k)
	if err != nil {
		return -1, err
	}
	return len(v), nil
}

func (s *memoryStore) Put(_ context.Context, k ds.Key, v []byte) error {
	s.apply(row{key: k, value: v})
	return nil
}

func (s *memoryStore) Delete(_ context.Context, k ds.Key) error {
	s.apply(row{key: k, remove: true})
	return nil
}

func (s *memoryStore) Sync(context.Context, ds.Key) error { return nil }
func (s *memoryStore) Close() error                       { return nil }

func (s *memoryStore) apply(rows ...row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		old, listed := s.rows[r.key.String()]
		switch {
		case !r.remove:
			s.putLocked(r.key.String(), r.value, listed, old == nil)
		case old != nil:
			s.rows[r.key.String()] = nil
			s.gone++
		}
	}
}

func (s *memoryStore) putLocked(key string, value []byte, listed, absent bool) {
	if value == nil {
		value = []byte{}
	}
	s.rows[key] = value
	switch {
	case !listed:
		s.fresh = append(s.fresh, key)
	case absent:
		s.gone--
	}
}

func (s *memoryStore) Query(_ context.Context, q query.Query) (query.Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sortLocked()
	prefix := strings.TrimSuffix(ds.NewKey(q.Prefix).String(), "/") + "/"
	var found []query.Entry
	for i, _ := slices.BinarySearch(s.keys, prefix); i < len(s.keys) && strings.HasPrefix(s.keys[i], prefix); i++ {
		v := s.rows[s.keys[i]]
		if v == nil {
			continue
		}
		e := query.Entry{Key: s.keys[i], Size: len(v)}
		if !q.KeysOnly {
			e.Value = v
		}
		found = append(found, e)
	}
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

// sortLocked brings keys in line with rows.
func (s *memoryStore) sortLocked() {
	if s.gone > len(s.rows)/2 {
		keep := func(k string) bool { return s.rows[k] == nil }
		s.keys, s.fresh = slices.DeleteFunc(s.keys, keep), slices.DeleteFunc(s.fresh, keep)
		for k, v := range s.rows {
			if v == nil {
				delete(s.rows, k)
			}
		}
		s.gone = 0
	}
	if len(s.fresh) > 0 {
		s.keys = append(s.keys, s.fresh...)
		s.fresh = nil
		slices.Sort(s.keys)
	}
}

func (s *memoryStore) Batch(context.Context) (ds.Batch, error) { return &memoryBatch{store: s}, nil }

type memoryBatch struct {
	store interface{ apply(...row) } // all rows at once
	rows  []row
}

func (b *memoryBatch) Put(_ context.Context, k ds.Key, v []byte) error {
	b.rows = append(b.rows, row{key: k, value: v})
	return nil
}

func (b *memoryBatch) Delete(_ context.Context, k ds.Key) error {
	b.rows = append(b.rows, row{key: k, remove: true})
	return nil
}

func (b *memoryBatch) Commit(context.Context) error {
	b.store.apply(b.rows...)
	return nil
}

// plainStore hides everything but ds.Datastore: rows are written one by one.
type plainStore struct{ ds.Datastore }

// basicStore has the batches of go-datastore's map store: they write their rows
// one by one, in any order.
type basicStore struct{ ds.Datastore }

func (s basicStore) Batch(context.Context) (ds.Batch, error) {
	return ds.NewBasicBatch(s.Datastore), nil
}

// Errors of a faultyStore.
var (
	errDied  = errors.New("the store has died")
	errFault = errors.New("the store has failed")
)

// A faultyStore counts what is asked of a store, fails now and then, or dies:
// then it fails every write, as if the process had been killed. A batch is one write,
// and made whole or not at all, like those of the store below. Wrap it in a
// plainStore or a basicStore to have it fail between the rows of a commit.
type faultyStore struct {
	ds.Batching
	onQuery func(query.Query) error // asked before each query; nil: none
	onDeath func()                  // called with the first write that finds it dead; nil: none

	reads, writes     atomic.Int64 // rows
	maxRows, maxBytes atomic.Int64 // of one write
	maxReads, readBy  atomic.Int64 // rows between two writes; rows before the last

	mu     sync.Mutex
	left   int  // writes until it dies; negative: it does not
	in     int  // writes until some fail; negative: none does
	times  int  // how many will fail
	effect bool // those that fail are made all the same
	died   bool // a write has found it dead
	failed bool // a write has failed
}

func newFaultyStore() *faultyStore {
	return &faultyStore{Batching: newAtomicStore(), left: -1, in: -1}
}

// dieAfter lets the store die after that many more writes.
func (s *faultyStore) dieAfter(writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = writes
}

// failIn lets some writes fail after that many more. They may take effect all
// the same.
func (s *faultyStore) failIn(writes, times int, effect bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in, s.times, s.effect = writes, times, effect
}

// heal makes the store work again, and forget what it did.
func (s *faultyStore) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.in = -1, -1
	s.died, s.failed = false, false
}

// hasDied tells whether a write has found the store dead.
func (s *faultyStore) hasDied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.died
}

// failing tells whether a write has failed, or is about to.
func (s *faultyStore) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.died || s.failed || s.left >= 0 || s.in >= 0
}

// write makes a write of some rows, unless it is to fail.
func (s *faultyStore) write(rows, size int, make func() error) error {
	s.maxRows.Store(max(s.maxRows.Load(), int64(rows)))
	s.maxBytes.Store(max(s.maxBytes.Load(), int64(size)))
	reads := s.reads.Load()
	s.maxReads.Store(max(s.maxReads.Load(), reads-s.readBy.Swap(reads)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		s.dieLocked()
		return errDied
	}
	s.left = max(s.left-1, -1)
	fails := s.failsLocked()
	s.failed = s.failed || fails
	if fails && !s.effect {
		return errFault
	}
	s.writes.Add(int64(rows))
	err := make()
	if fails {
		return errFault
	}
	return err
}

func (s *faultyStore) failsLocked() bool {
	if s.in != 0 {
		s.in = max(s.in-1, -1)
		return false
	}
	if s.times--; s.times <= 0 {
		s.in = -1
	}
	return true
}

func (s *faultyStore) dieLocked() {
	if !s.died && s.onDeath != nil {
		s.onDeath()
	}
	s.died = true
}

func (s *faultyStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	s.reads.Add(1)
	return s.Batching.Get(ctx, k)
}

func (s *faultyStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	s.reads.Add(1)
	return s.Batching.Has(ctx, k)
}

func (s *faultyStore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	if s.onQuery != nil {
		if err := s.onQuery(q); err != nil {
			return nil, err
		}
	}
	res, err := s.Batching.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	return query.ResultsFromIterator(q, query.Iterator{
		Next:  func() (query.Result, bool) { s.reads.Add(1); return res.NextSync() },
		Close: res.Close,
	}), nil
}

func (s *faultyStore) Put(ctx context.Context, k ds.Key, v []byte) error {
	return s.write(1, len(v), func() error { return s.Batching.Put(ctx, k, v) })
}

func (s *faultyStore) Delete(ctx context.Context, k ds.Key) error {
	return s.write(1, 0, func() error { return s.Batching.Delete(ctx, k) })
}

func (s *faultyStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &faultyBatch{Batch: b, store: s}, err
}

type faultyBatch struct {
	ds.Batch
	store      *faultyStore
	rows, size int
}

func (b *faultyBatch) Put(ctx context.Context, k ds.Key, v []byte) error {
	b.rows, b.size = b.rows+1, b.size+len(v)
	return b.Batch.Put(ctx, k, v)
}

func (b *faultyBatch) Delete(ctx context.Context, k ds.Key) error {
	b.rows++
	return b.Batch.Delete(ctx, k)
}

func (b *faultyBatch) Commit(ctx context.Context) error {
	return b.store.write(b.rows, b.size, func() error { return b.Batch.Commit(ctx) })
}
