package crdt

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
	badger "github.com/ipfs/go-ds-badger4"
)

// stores are the kinds of store that the tests run on.
var stores = map[string]func(t *testing.T) ds.Datastore{
	"map":    func(*testing.T) ds.Datastore { return dssync.MutexWrap(ds.NewMapDatastore()) },
	"basic":  func(*testing.T) ds.Datastore { return basicStore{newAtomicStore()} },
	"plain":  func(*testing.T) ds.Datastore { return plainStore{newAtomicStore()} },
	"badger": newBadger,
}

func newBadger(t *testing.T) ds.Datastore {
	opts := badger.DefaultOptions
	opts.Options = opts.WithSyncWrites(false)
	store, err := badger.NewDatastore(t.TempDir(), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// A memoryStore is a store with atomic batches that finds the rows under a
// prefix without looking at the others.
type memoryStore struct {
	mu    sync.Mutex
	rows  map[string][]byte // nil: deleted, but still among keys or fresh
	keys  []string          // of rows, sorted
	fresh []string          // likewise, those that are not among keys yet
	gone  int               // how many of rows are nil
}

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

func newAtomicStore() ds.Batching { return &memoryStore{rows: make(map[string][]byte)} }

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
	failures          atomic.Int64 // writes
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

// hasDied reports whether a write has found the store dead.
func (s *faultyStore) hasDied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.died
}

// failing reports whether a write has failed, or is about to.
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
	if fails {
		s.failures.Add(1)
	}
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

func newFaultyStore() *faultyStore {
	return &faultyStore{Batching: newAtomicStore(), left: -1, in: -1}
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

// A prefixStore is a memoryStore for very many rows that come and go: it does
// not sort them. It also knows how much it holds, which stands for what a real
// one keeps on disk.
type prefixStore struct {
	rowTime time.Duration // that each row of a commit takes

	mu    sync.RWMutex
	rows  map[string][]byte
	below map[string]map[string]struct{} // by the first parts of a row's name
	size  int                            // of all names and values, in bytes
}

// prefixDepth is how many parts of a name are looked up.
const prefixDepth = 4

// prefixRowSize is about what the maps take for a row, beside its name and value.
const prefixRowSize = 200

func newPrefixStore() *prefixStore {
	return &prefixStore{rows: make(map[string][]byte), below: make(map[string]map[string]struct{})}
}

// prefixesOf calls f with what a row may be looked up by.
func prefixesOf(name string, f func(string)) {
	f("")
	for i, depth := 1, 0; i < len(name) && depth < prefixDepth; i++ {
		if name[i] == '/' {
			f(name[:i])
			depth++
		}
	}
}

func (s *prefixStore) held() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.size + len(s.rows)*prefixRowSize
}

func (s *prefixStore) Get(_ context.Context, k ds.Key) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v, ok := s.rows[k.String()]; ok {
		return v, nil
	}
	return nil, ds.ErrNotFound
}

func (s *prefixStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, s, k)
}

func (s *prefixStore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, s, k)
}

func (s *prefixStore) Put(_ context.Context, k ds.Key, v []byte) error {
	s.apply(row{key: k, value: v})
	return nil
}

func (s *prefixStore) Delete(_ context.Context, k ds.Key) error {
	s.apply(row{key: k, remove: true})
	return nil
}

func (s *prefixStore) apply(rows ...row) {
	time.Sleep(time.Duration(len(rows)) * s.rowTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		s.removeLocked(r.key.String())
		if !r.remove {
			s.putLocked(strings.Clone(r.key.String()), r.value)
		}
	}
}

func (s *prefixStore) putLocked(name string, v []byte) {
	s.rows[name] = v
	s.size += len(name) + len(v)
	prefixesOf(name, func(prefix string) {
		if s.below[prefix] == nil {
			s.below[prefix] = make(map[string]struct{})
		}
		s.below[prefix][name] = struct{}{}
	})
}

func (s *prefixStore) removeLocked(name string) {
	v, ok := s.rows[name]
	if !ok {
		return
	}
	delete(s.rows, name)
	s.size -= len(name) + len(v)
	prefixesOf(name, func(prefix string) {
		delete(s.below[prefix], name)
		if len(s.below[prefix]) == 0 {
			delete(s.below, prefix)
		}
	})
}

func (s *prefixStore) Query(_ context.Context, q query.Query) (query.Results, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prefix := strings.TrimSuffix(ds.NewKey(q.Prefix).String(), "/")
	var lookup string
	prefixesOf(prefix+"/", func(p string) { lookup = p })
	enough := q.Limit > 0 && len(q.Filters)+len(q.Orders) == 0
	var found []query.Entry
	for name := range s.below[lookup] {
		if !strings.HasPrefix(name, prefix+"/") {
			continue
		}
		e := query.Entry{Key: name, Size: len(s.rows[name])}
		if !q.KeysOnly {
			e.Value = s.rows[name]
		}
		if found = append(found, e); enough && len(found) == q.Limit+q.Offset {
			break
		}
	}
	q.Prefix = ""
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

func (s *prefixStore) Sync(context.Context, ds.Key) error { return nil }
func (s *prefixStore) Close() error                       { return nil }

func (s *prefixStore) Batch(context.Context) (ds.Batch, error) { return &memoryBatch{store: s}, nil }

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
