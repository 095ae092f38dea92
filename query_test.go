package crdt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
)

// queryKeys are keys on several levels: some are prefixes of others, as keys
// or only as strings.
func queryKeys() []string {
	keys := []string{"/a", "/ab", "/a/b", "/a/b/c", "/a/b/c/d", "/a/bc", "/a-", "/a%2Fb", "/b", "/s/r/a", "/é", "/ z"}
	for i := range 60 {
		keys = append(keys, fmt.Sprintf("/a/%d", i), fmt.Sprintf("/n/%d/%d", i%7, i))
	}
	return keys
}

// fillForQueries writes the same pairs to a replica and to a map store. Values
// are few, so that many are equal; some keys have losers, some were deleted.
func fillForQueries(t *testing.T, r *replica) *ds.MapDatastore {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 6))
	model := ds.NewMapDatastore()
	for round := range 2 {
		b, err := r.Batch(ctx)
		r.must(err)
		for _, k := range queryKeys() {
			key, value := ds.NewKey(k), []byte(strings.Repeat(string(rune('p'+rng.IntN(4))), rng.IntN(4)))
			switch {
			case round == 0 || rng.IntN(3) > 0:
				r.must(b.Put(ctx, key, value))
				r.must(model.Put(ctx, key, value))
			case rng.IntN(4) == 0:
				r.must(b.Delete(ctx, key))
				r.must(model.Delete(ctx, key))
			}
		}
		r.must(b.Commit(ctx))
	}
	return model
}

func randomQuery(rng *rand.Rand) query.Query {
	q := query.Query{
		Prefix:       pick(rng, "", "", "/", "/a", "a", "/a/", "a/b", "/a/b/c/d", "/n", "/n/3", "//n//3/", "/n/../a", "/none", "/A", "/s", "/é", "/ ", "/a%2Fb"),
		KeysOnly:     rng.IntN(3) == 0,
		ReturnsSizes: rng.IntN(3) == 0,
	}
	for range rng.IntN(3) {
		q.Filters = append(q.Filters, randomFilter(rng))
	}
	for range rng.IntN(3) {
		q.Orders = append(q.Orders, randomOrder(rng))
	}
	if rng.IntN(2) == 0 {
		q.Limit = rng.IntN(12)
	}
	if rng.IntN(2) == 0 {
		q.Offset = rng.IntN(12)
	}
	return q
}

func randomFilter(rng *rand.Rand) query.Filter {
	op := pick(rng, query.Equal, query.NotEqual, query.GreaterThan, query.GreaterThanOrEqual, query.LessThan, query.LessThanOrEqual)
	switch rng.IntN(3) {
	case 0:
		return query.FilterKeyCompare{Op: op, Key: pick(rng, queryKeys()...)}
	case 1:
		return query.FilterKeyPrefix{Prefix: pick(rng, "/a", "/a/", "/a/1", "/n/3", "", "/")}
	}
	return query.FilterValueCompare{Op: op, Value: pick(rng, nil, []byte("p"), []byte("qq"), []byte("rr"))}
}

func randomOrder(rng *rand.Rand) query.Order {
	return pick[query.Order](rng,
		query.OrderByKey{}, &query.OrderByKey{}, query.OrderByKeyDescending{}, &query.OrderByKeyDescending{},
		query.OrderByValue{}, query.OrderByValueDescending{},
		query.OrderByFunction(func(a, b query.Entry) int { return len(a.Key) - len(b.Key) }))
}

func TestQueriesAnswerAsAMapDatastoreDoes(t *testing.T) {
	for _, kind := range []string{"map", "badger"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newTestNet().newReplicaOn(t, stores[kind](t))
			model := fillForQueries(t, r)
			rng := rand.New(rand.NewPCG(3, 4))
			for i := 0; i < 3000 && !t.Failed(); i++ {
				compareQuery(t, r, model, randomQuery(rng))
			}
		})
	}
}

// compareQuery compares the answers to a query. Where no order is asked for,
// any pairs will do that match and that are as many.
func compareQuery(t *testing.T, r, model ds.Read, q query.Query) {
	t.Helper()
	got, want := ask(t, r, q), ask(t, model, q)
	if len(got) != len(want) {
		t.Errorf("%s: %d entries, want %d", q, len(got), len(want))
		return
	}
	if len(q.Orders) > 0 {
		for i := range want {
			compareEntry(t, q, got[i], want[i])
		}
		return
	}
	all := q
	all.Limit, all.Offset = 0, 0
	matching := make(map[string]query.Entry)
	for _, e := range ask(t, model, all) {
		matching[e.Key] = e
	}
	for _, e := range got {
		compareEntry(t, q, e, matching[e.Key])
		delete(matching, e.Key) // it must not come twice
	}
}

func compareEntry(t *testing.T, q query.Query, got, want query.Entry) {
	t.Helper()
	sized := q.ReturnsSizes || !q.KeysOnly
	if got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || sized && got.Size != want.Size {
		t.Errorf("%s: has %q=%q (%d), want %q=%q (%d)", q, got.Key, got.Value, got.Size, want.Key, want.Value, want.Size)
	}
	if q.KeysOnly && got.Value != nil {
		t.Errorf("%s: %q came with a value", q, got.Key)
	}
}

func ask(t *testing.T, store ds.Read, q query.Query) []query.Entry {
	t.Helper()
	res, err := store.Query(ctx, q)
	if err != nil {
		t.Fatalf("%s: %s", q, err)
	}
	defer res.Close()
	all, err := res.Rest()
	if err != nil {
		t.Fatalf("%s: %s", q, err)
	}
	return all
}

func TestQueryBelowAKeyLeavesItOut(t *testing.T) {
	r := newTestNet().newReplica(t)
	for _, k := range []string{"/a", "/a/b", "/ab"} {
		r.put(k, "v")
	}
	for _, prefix := range []string{"/a", "a", "/a/"} {
		if got := ask(t, r, query.Query{Prefix: prefix}); len(got) != 1 || got[0].Key != "/a/b" {
			t.Errorf("below %q: %v", prefix, got)
		}
	}
}

// A lazyStore yields rows of its map one by one, in the order of their keys,
// and counts what is taken.
type lazyStore struct {
	*dssync.MutexDatastore

	mu       sync.Mutex
	queries  []query.Query
	read     int
	open     int // results that were not closed
	gotValue int
}

func newLazyStore() *lazyStore {
	return &lazyStore{MutexDatastore: dssync.MutexWrap(ds.NewMapDatastore())}
}

func (s *lazyStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	s.mu.Lock()
	s.gotValue++
	s.mu.Unlock()
	return s.MutexDatastore.Get(ctx, k)
}

func (s *lazyStore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	if len(q.Orders) == 0 {
		q.Orders = []query.Order{query.OrderByKey{}}
	}
	res, err := s.MutexDatastore.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.queries = append(s.queries, q)
	return query.ResultsFromIterator(q, query.Iterator{
		Next: func() (query.Result, bool) {
			next, ok := res.NextSync()
			s.mu.Lock()
			defer s.mu.Unlock()
			if ok {
				s.read++
			}
			return next, ok
		},
		Close: sync.OnceValue(func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open--
			return res.Close()
		}),
	}), nil
}

func (s *lazyStore) Batch(context.Context) (ds.Batch, error) { return nil, ds.ErrBatchUnsupported }

// reset forgets what was counted, but for results still open.
func (s *lazyStore) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries, s.read, s.gotValue = nil, 0, 0
}

func (s *lazyStore) counts() (queries []query.Query, read, open, gotValue int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries, s.read, s.open, s.gotValue
}

// lazyReplica holds the pairs /00 to /99, on a store that counts.
func lazyReplica(t *testing.T) (*replica, *lazyStore) {
	t.Helper()
	store := newLazyStore()
	r := newTestNet().newReplicaOn(t, store, func(o *Options) { o.RepairInterval = 0 })
	b, err := r.Batch(ctx)
	r.must(err)
	for i := range 100 {
		r.must(b.Put(ctx, ds.NewKey(fmt.Sprintf("/%02d", i)), []byte{'v', byte(i % 10)}))
	}
	r.must(b.Commit(ctx))
	store.reset()
	return r, store
}

func TestQueryStopsReadingAsSoonAsTheLimitIsMet(t *testing.T) {
	byKey := []query.Order{query.OrderByKey{}}
	sevens := []query.Filter{query.FilterValueCompare{Op: query.Equal, Value: []byte{'v', 7}}}
	for _, c := range []struct {
		query      query.Query
		keys, read int
	}{
		{query.Query{Limit: 3}, 3, 3},
		{query.Query{Limit: 3, KeysOnly: true}, 3, 3},
		{query.Query{Limit: 3, Orders: byKey}, 3, 3},
		{query.Query{Limit: 3, Offset: 10, Orders: byKey}, 3, 13},
		{query.Query{Limit: 2, Filters: sevens}, 2, 18},                              // up to /17
		{query.Query{Limit: 2, Filters: sevens, Orders: byKey}, 2, 18},               // likewise
		{query.Query{Limit: 2, Filters: sevens, Offset: 1}, 2, 28},                   // up to /27
		{query.Query{Prefix: "/none", Limit: 2}, 0, 0},                               // nothing
		{query.Query{Limit: 3, Orders: []query.Order{query.OrderByValue{}}}, 3, 100}, // all must be seen
	} {
		r, store := lazyReplica(t)
		if got := len(ask(t, r, c.query)); got != c.keys {
			t.Errorf("%s: %d entries, want %d", c.query, got, c.keys)
		}
		if _, read, open, _ := store.counts(); read > c.read || open > 0 {
			t.Errorf("%s: read %d rows, want %d at most; %d results are open", c.query, read, c.read, open)
		}
	}
}

func TestQueryReadsNoFasterThanItsReader(t *testing.T) {
	r, store := lazyReplica(t)
	res, err := r.Query(ctx, query.Query{Filters: []query.Filter{query.FilterKeyCompare{Op: query.NotEqual, Key: "/50"}}})
	r.must(err)
	for i := range 5 {
		res.NextSync()
		if _, read, _, _ := store.counts(); read != i+1 {
			t.Errorf("for %d entries %d rows were read", i+1, read)
		}
	}
	r.must(res.Close())
}

func TestKeysOnlyQueryNeverLoadsValues(t *testing.T) {
	r, store := lazyReplica(t)
	rng := rand.New(rand.NewPCG(8, 9))
	for range 200 {
		q := randomQuery(rng)
		q.KeysOnly = true
		for _, e := range ask(t, r, q) {
			if e.Value != nil {
				t.Fatalf("%s: %s came with a value", q, e.Key)
			}
		}
	}
	queries, _, _, gotValue := store.counts()
	for _, q := range queries {
		if !q.KeysOnly {
			t.Fatalf("the store was asked for values: %s", q)
		}
	}
	if gotValue > 0 || len(queries) != 200 {
		t.Errorf("%d queries of the store, %d values got", len(queries), gotValue)
	}
}

func TestHasAndGetSizeNeverLoadValues(t *testing.T) {
	r, store := lazyReplica(t)
	for _, k := range []string{"/00", "/99", "/none"} {
		there := k != "/none"
		has, err := r.Has(ctx, ds.NewKey(k))
		if has != there || err != nil {
			t.Errorf("Has(%s) = %v, %v", k, has, err)
		}
		size, err := r.GetSize(ctx, ds.NewKey(k))
		if there && (size != 2 || err != nil) || !there && (size != -1 || !errors.Is(err, ds.ErrNotFound)) {
			t.Errorf("GetSize(%s) = %d, %v", k, size, err)
		}
	}
	if _, read, _, gotValue := store.counts(); read+gotValue > 0 {
		t.Errorf("%d rows and %d values were read", read, gotValue)
	}
}

func TestResultsClosedEarlyReleaseEverything(t *testing.T) {
	r, store := lazyReplica(t)
	rng := rand.New(rand.NewPCG(10, 11))
	for range 300 {
		q := randomQuery(rng)
		res, err := r.Query(ctx, q)
		r.must(err)
		switch rng.IntN(4) {
		case 0: // nothing is read
		case 1:
			res.NextSync()
		case 2:
			<-res.Next()
		case 3:
			_, _ = res.Rest() // and closed twice
			r.must(res.Close())
		}
		r.must(res.Close())
		if _, _, open, _ := store.counts(); open != 0 {
			t.Fatalf("%s: %d results of the store are still open", q, open)
		}
	}
}

// Badger has a goroutine for results that are open: TestMain would find it.
func TestResultsClosedEarlyReleaseBadger(t *testing.T) {
	r := newTestNet().newReplicaOn(t, newBadger(t))
	fillForQueries(t, r)
	rng := rand.New(rand.NewPCG(12, 13))
	for range 100 {
		res, err := r.Query(ctx, randomQuery(rng))
		r.must(err)
		res.NextSync()
		r.must(res.Close())
	}
}

func TestCorruptRecordGivesAnError(t *testing.T) {
	good := (&record{version: version{priority: 1, value: []byte("v")}}).encode()
	unknownFlag := slices.Clone(good)
	unknownFlag[0] |= 1 << 7
	for name, raw := range map[string][]byte{
		"nil":          nil,
		"empty":        {},
		"one byte":     {flagRecord},
		"cut off":      good[:recordHeader-1],
		"zeros":        make([]byte, len(good)),
		"unknown flag": unknownFlag,
	} {
		for _, kind := range []string{"map", "badger"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				r := newTestNet().newReplicaOn(t, stores[kind](t))
				r.put("/sound", "v") // above /k, or a Put would know that this has no record
				row := testNamespace.ChildString("s/r/k")
				r.must(r.store.Put(ctx, row, raw))
				checkCorrupt(r)
				r.must(r.store.Delete(ctx, row))
			})
		}
	}
}

// checkCorrupt checks what is said of /k, whose record is corrupt.
func checkCorrupt(r *replica) {
	t, key := r.t, ds.NewKey("/k")
	_, getErr := r.Get(ctx, key)
	putErr := r.Put(ctx, key, []byte("v"))
	deleteErr := r.Delete(ctx, key)
	for name, err := range map[string]error{"Get": getErr, "Put": putErr, "Delete": deleteErr} {
		if !errors.Is(err, errBadRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if size, err := r.GetSize(ctx, key); err == nil && size < 0 {
		t.Errorf("GetSize: %d without an error", size)
	}
	for _, orders := range [][]query.Order{nil, {query.OrderByKey{}}, {query.OrderByValue{}}} {
		res, err := r.Query(ctx, query.Query{Orders: orders})
		r.must(err)
		if _, err := res.Rest(); !errors.Is(err, errBadRecord) {
			t.Errorf("a query ordered by %v: %v", orders, err)
		}
		r.must(res.Close())
		keys := ask(t, r, query.Query{Orders: orders, KeysOnly: true, ReturnsSizes: true})
		for _, e := range keys {
			if e.Key == "/sound" && e.Size != 1 {
				t.Errorf("/sound has size %d", e.Size)
			}
		}
	}
	if got := r.get("/sound"); got != "v" {
		t.Errorf("/sound is %q", got)
	}
}
