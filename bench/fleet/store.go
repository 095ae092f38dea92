package main

import (
	"context"
	"strings"
	"sync"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/tidwall/btree"
)

// A store keeps rows in memory, in order: go-datastore's own looks at all of them for every query.
type store struct {
	mu   sync.RWMutex
	rows btree.Map[string, []byte]
}

// Get implements ds.Datastore.
func (s *store) Get(_ context.Context, k ds.Key) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v, ok := s.rows.Get(k.String()); ok {
		return v, nil
	}
	return nil, ds.ErrNotFound
}

// Has implements ds.Datastore.
func (s *store) Has(ctx context.Context, k ds.Key) (bool, error) { return ds.GetBackedHas(ctx, s, k) }

// GetSize implements ds.Datastore.
func (s *store) GetSize(ctx context.Context, k ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, s, k)
}

// Query implements ds.Datastore.
func (s *store) Query(_ context.Context, q query.Query) (query.Results, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prefix := strings.TrimSuffix(ds.NewKey(q.Prefix).String(), "/") + "/"
	var found []query.Entry
	s.rows.Ascend(prefix, func(name string, v []byte) bool {
		if !strings.HasPrefix(name, prefix) {
			return false
		}
		e := query.Entry{Key: name, Size: len(v)}
		if !q.KeysOnly {
			e.Value = v
		}
		found = append(found, e)
		return true
	})
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

// Put implements ds.Datastore.
func (s *store) Put(_ context.Context, k ds.Key, v []byte) error {
	s.write(func() { s.rows.Set(k.String(), v) })
	return nil
}

// Delete implements ds.Datastore.
func (s *store) Delete(_ context.Context, k ds.Key) error {
	s.write(func() { s.rows.Delete(k.String()) })
	return nil
}

func (s *store) write(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Sync implements ds.Datastore.
func (s *store) Sync(context.Context, ds.Key) error { return nil }

// Close implements ds.Datastore.
func (s *store) Close() error { return nil }

// Batch implements ds.Batching.
func (s *store) Batch(context.Context) (ds.Batch, error) { return &batch{store: s}, nil }

// A batch is written at once.
type batch struct {
	store   *store
	changes []func()
}

// Put implements ds.Batch.
func (b *batch) Put(_ context.Context, k ds.Key, v []byte) error {
	b.changes = append(b.changes, func() { b.store.rows.Set(k.String(), v) })
	return nil
}

// Delete implements ds.Batch.
func (b *batch) Delete(_ context.Context, k ds.Key) error {
	b.changes = append(b.changes, func() { b.store.rows.Delete(k.String()) })
	return nil
}

// Commit implements ds.Batch.
func (b *batch) Commit(context.Context) error {
	b.store.write(func() {
		for _, change := range b.changes {
			change()
		}
	})
	return nil
}
