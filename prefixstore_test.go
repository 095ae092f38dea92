package crdt

import (
	"context"
	"strings"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

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
