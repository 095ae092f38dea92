package crdt

import (
	"context"
	"fmt"
	"strings"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// recordOf is the row of a key given by a user. That of "/" is never there.
func (k *keyspace) recordOf(key ds.Key) ds.Key {
	return k.record(strings.TrimSuffix(ds.NewKey(key.String()).String(), "/"))
}

// queryRecords answers a query from the records: one row a key, read as the
// results are taken.
func (s *rowStore) queryRecords(ctx context.Context, q query.Query) (query.Results, error) {
	rows, rest := s.pushDown(q)
	results, err := s.Datastore.Query(ctx, rows)
	if err != nil {
		return nil, err
	}
	pairs := query.ResultsFromIterator(q, query.Iterator{
		Next: func() (query.Result, bool) {
			r, ok := results.NextSync()
			if ok && r.Error == nil {
				r = s.pair(r, q.KeysOnly)
			}
			return r, ok
		},
		Close: results.Close,
	})
	return query.NaiveQueryApply(rest, pairs), nil
}

// pushDown splits a query into what the store can answer and what is left to
// do afterwards. Records sort as their keys do.
func (s *rowStore) pushDown(q query.Query) (rows, rest query.Query) {
	prefix := strings.TrimSuffix(ds.NewKey(q.Prefix).String(), "/")
	rows = query.Query{
		Prefix:            s.keys.records + prefix,
		KeysOnly:          q.KeysOnly,
		ReturnsSizes:      q.ReturnsSizes,
		ReturnExpirations: q.ReturnExpirations,
	}
	rest = q
	rest.Prefix = ""
	if len(q.Orders) > 0 {
		if !isKeyOrder(q.Orders[0]) {
			return rows, rest
		}
		// Keys are unique: no further order can matter.
		rows.Orders, rest.Orders = q.Orders[:1], nil
	}
	if len(q.Filters) == 0 {
		rows.Limit, rows.Offset = q.Limit, q.Offset
		rest.Limit, rest.Offset = 0, 0
	}
	return rows, rest
}

// isKeyOrder reports whether an order is one that every store has right. Badger's
// datastore finds nothing under a prefix in descending order.
func isKeyOrder(o query.Order) bool {
	switch o.(type) {
	case query.OrderByKey, *query.OrderByKey:
		return true
	}
	return false
}

// pair turns a record's row into the pair it stands for.
func (s *rowStore) pair(r query.Result, keysOnly bool) query.Result {
	key := r.Key[len(s.keys.records):]
	if keysOnly {
		// A store that knows no sizes says -1.
		r.Key, r.Size = key, max(r.Size-recordHeader, -1)
		return r
	}
	value, err := recordValue(r.Value)
	if err != nil {
		return query.Result{Error: fmt.Errorf("%w for %s", err, key)}
	}
	r.Key, r.Value, r.Size = key, value, len(value)
	return r
}
