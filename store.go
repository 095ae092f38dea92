package crdt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"google.golang.org/protobuf/encoding/protowire"
)

// A rowStore is the user's datastore, with writes that are all or nothing.
//
// A batch of the user's store is taken to be atomic. Where there is none, or
// it may be too large for the store to keep in one piece, the rows are first
// written as one redo row. Whatever happens then, redo writes them again.
type rowStore struct {
	ds.Datastore
	keys     *keyspace
	batching ds.Batching // nil: every row is written on its own
	covers   coverIndex
}

// A row is one change to the store.
type row struct {
	key    ds.Key
	value  []byte
	remove bool
}

// A batch beyond these limits gets a redo row: Badger, for one, cuts a large
// batch into several transactions without saying so.
const (
	maxAtomicRows  = 64 << 10
	maxAtomicBytes = 8 << 20
)

func newRowStore(ctx context.Context, store ds.Datastore, keys *keyspace) (*rowStore, error) {
	s := &rowStore{Datastore: store, keys: keys}
	atomic, err := hasAtomicBatch(ctx, store)
	if atomic {
		s.batching = store.(ds.Batching)
	}
	return s, err
}

// hasAtomicBatch reports whether a store, and every store that it wraps, has
// batches that can be atomic. go-datastore's basic batch is not: it writes its
// rows one by one, in any order.
func hasAtomicBatch(ctx context.Context, store ds.Datastore) (bool, error) {
	batching, ok := store.(ds.Batching)
	if !ok {
		return false, nil
	}
	if wrapper, ok := store.(ds.Shim); ok {
		for _, child := range wrapper.Children() {
			if ok, err := hasAtomicBatch(ctx, child); !ok || err != nil {
				return false, err
			}
		}
	}
	probe, err := batching.Batch(ctx)
	if errors.Is(err, ds.ErrBatchUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("crdt: opening a batch: %w", err)
	}
	cancel(probe)
	return reflect.TypeOf(probe) != reflect.TypeOf(ds.NewBasicBatch(nil)), nil
}

// cancel lets go of a batch that is not committed: Badger's holds a transaction.
func cancel(b ds.Batch) {
	if c, ok := b.(interface{ Cancel() error }); ok {
		_ = c.Cancel()
	}
}

// getRow reads a row; found is false when there is none.
func (s *rowStore) getRow(ctx context.Context, key ds.Key) (value []byte, found bool, err error) {
	value, err = s.Datastore.Get(ctx, key)
	if errors.Is(err, ds.ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}

// rowsUnder yields the rows under a prefix: their keys without the prefix, and
// their values unless keysOnly is set. limit 0 means all.
func (s *rowStore) rowsUnder(ctx context.Context, prefix string, keysOnly bool, limit int) iter.Seq2[query.Entry, error] {
	return func(yield func(query.Entry, error) bool) {
		q := query.Query{Prefix: prefix, KeysOnly: keysOnly, Limit: limit}
		for e, err := range ds.QueryIter(ctx, s.Datastore, q) {
			if err == nil {
				e.Key = e.Key[len(prefix):]
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// rowsOf yields the rows whose names go on for just so many parts under a
// prefix. What lies deeper is not ours: users may keep their blocks there, at
// <prefix>/blocks/<id>, and those have names like our own rows.
func (s *rowStore) rowsOf(ctx context.Context, prefix string, parts int, keysOnly bool) iter.Seq2[query.Entry, error] {
	return func(yield func(query.Entry, error) bool) {
		for e, err := range s.rowsUnder(ctx, prefix, keysOnly, 0) {
			if (err != nil || strings.Count(e.Key, "/") == parts) && !yield(e, err) {
				return
			}
		}
	}
}

// A blockRow is a row that is named for a block.
type blockRow struct {
	id    blockID
	value []byte
}

// blockRows yields the rows right under a prefix that are named for blocks.
func (s *rowStore) blockRows(ctx context.Context, prefix string, keysOnly bool) iter.Seq2[blockRow, error] {
	return func(yield func(blockRow, error) bool) {
		for e, err := range s.rowsOf(ctx, prefix, 1, keysOnly) {
			_, id, ok := splitID(e.Key)
			if (ok || err != nil) && !yield(blockRow{id, e.Value}, err) {
				return
			}
		}
	}
}

// hasAny reports whether there is a row under a prefix, of whatever kind.
func (s *rowStore) hasAny(ctx context.Context, prefix string) (bool, error) {
	for _, err := range s.rowsUnder(ctx, prefix, true, 1) {
		return true, err // an error leaves it open
	}
	return false, nil
}

// write makes all changes, or none. When it fails, it is unknown which: then
// redo must be called before anything is read for the next write.
func (s *rowStore) write(ctx context.Context, rows []row) error {
	if s.batching != nil && isSmall(rows) {
		return s.apply(ctx, rows)
	}
	if err := s.Put(ctx, s.keys.redo, encodeRedo(rows)); err != nil {
		return err
	}
	// Once the redo row stands, the commit will be made: better now than when
	// the next one comes.
	if s.applyRedo(ctx, rows) == nil {
		return nil
	}
	return s.applyRedo(ctx, rows)
}

// hasAll reports whether rows are as a write would have left them.
func (s *rowStore) hasAll(ctx context.Context, rows []row) (bool, error) {
	for _, r := range rows {
		value, found, err := s.getRow(ctx, r.key)
		if err != nil {
			return false, err
		}
		if found == r.remove || !bytes.Equal(value, r.value) {
			return false, nil
		}
	}
	return true, nil
}

// redo finishes a write that was cut off.
func (s *rowStore) redo(ctx context.Context) error {
	redo, found, err := s.getRow(ctx, s.keys.redo)
	if err != nil || !found {
		return err
	}
	rows, err := s.keys.decodeRedo(redo)
	if err != nil {
		return fmt.Errorf("crdt: row %s: %w", s.keys.redo, err)
	}
	return s.applyRedo(ctx, rows)
}

func (s *rowStore) applyRedo(ctx context.Context, rows []row) error {
	if err := s.apply(ctx, rows); err != nil {
		return err
	}
	return s.Delete(ctx, s.keys.redo)
}

func (s *rowStore) apply(ctx context.Context, rows []row) error {
	if s.batching == nil {
		return writeRows(ctx, s.Datastore, rows)
	}
	batch, err := s.batching.Batch(ctx)
	if err != nil {
		return err
	}
	if err := writeRows(ctx, batch, rows); err != nil {
		cancel(batch)
		return err
	}
	return batch.Commit(ctx)
}

func writeRows(ctx context.Context, to ds.Write, rows []row) error {
	for _, r := range rows {
		var err error
		if r.remove {
			err = to.Delete(ctx, r.key)
		} else {
			err = to.Put(ctx, r.key, r.value)
		}
		if err != nil {
			return fmt.Errorf("crdt: writing row %s: %w", r.key, err)
		}
	}
	return nil
}

func isSmall(rows []row) bool {
	size := 0
	for _, r := range rows {
		size += len(r.key.String()) + len(r.value)
	}
	return len(rows) <= maxAtomicRows && size <= maxAtomicBytes
}

// A redo row has the shape of a delta: what is put and what is removed. But the
// names of rows are bytes: a namespace need not be UTF-8.
const (
	redoPuts    protowire.Number = 1
	redoRemoves protowire.Number = 2
	redoKey     protowire.Number = 1
	redoValue   protowire.Number = 3
)

func encodeRedo(rows []row) (redo []byte) {
	var entry []byte
	for _, r := range rows {
		entry = appendBytes(entry[:0], redoKey, r.key.Bytes())
		entry = appendBytes(entry, redoValue, r.value)
		to := redoPuts
		if r.remove {
			to = redoRemoves
		}
		redo = appendBytes(redo, to, entry)
	}
	return redo
}

func appendBytes(msg []byte, number protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(msg, number, protowire.BytesType), b)
}

// decodeRedo reads what encodeRedo wrote. Rows that cannot be ours mean that it
// is damaged.
func (k *keyspace) decodeRedo(redo []byte) (rows []row, err error) {
	for _, of := range []protowire.Number{redoPuts, redoRemoves} {
		err := eachField(redo, of, func(entry []byte) error {
			r, err := k.decodeRedoEntry(entry)
			r.remove = of == redoRemoves
			rows = append(rows, r)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (k *keyspace) decodeRedoEntry(entry []byte) (row, error) {
	var key, value []byte
	err := errors.Join(
		eachField(entry, redoKey, func(b []byte) error { key = b; return nil }),
		eachField(entry, redoValue, func(b []byte) error { value = b; return nil }),
	)
	if err == nil && !k.has(string(key)) {
		err = fmt.Errorf("it has a row %q, which is not below %s", key, k.namespace)
	}
	if err != nil {
		return row{}, err
	}
	return row{key: ds.RawKey(string(key)), value: value}, nil
}
