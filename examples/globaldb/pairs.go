package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// batchSize is how many pairs writePairs puts into one batch, that is into
// one block: large enough to be quick, small enough to show progress.
const batchSize = 500

// pair is a key with its value, as people type and read them.
type pair struct{ key, value string }

// readPairs streams the pairs below a prefix. It ends after an error.
func readPairs(ctx context.Context, store ds.Read, prefix string) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		results, err := store.Query(ctx, query.Query{Prefix: prefix})
		if err != nil {
			yield(pair{}, err)
			return
		}
		defer results.Close()
		for r, ok := results.NextSync(); ok; r, ok = results.NextSync() {
			if !yield(pair{r.Key, string(r.Value)}, r.Error) || r.Error != nil {
				return
			}
		}
	}
}

// writePairs stores pairs in batches and calls wrote with the size of each
// one that is in. It stops at the first error; the batches before it stay.
func writePairs(ctx context.Context, store ds.Batching, pairs iter.Seq2[pair, error], wrote func(int)) error {
	var pending []pair
	flush := func() error {
		defer func() { pending = pending[:0] }()
		return writeBatch(ctx, store, pending, wrote)
	}
	for p, err := range pairs {
		if err != nil {
			return err
		}
		if pending = append(pending, p); len(pending) == batchSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func writeBatch(ctx context.Context, store ds.Batching, pairs []pair, wrote func(int)) error {
	if len(pairs) == 0 {
		return nil
	}
	batch, err := store.Batch(ctx)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if err := batch.Put(ctx, ds.NewKey(p.key), []byte(p.value)); err != nil {
			return err
		}
	}
	if err := batch.Commit(ctx); err != nil {
		return err
	}
	wrote(len(pairs))
	return nil
}

// snapshot is all that a replica holds at one moment.
type snapshot map[string]string

func takeSnapshot(ctx context.Context, store ds.Read) (snapshot, error) {
	s := snapshot{}
	for p, err := range readPairs(ctx, store, "/") {
		if err != nil {
			return nil, err
		}
		s[p.key] = p.value
	}
	return s, nil
}

// show is how the value of a key reads in a table or a sentence.
func (s snapshot) show(key string) string {
	if value, ok := s[key]; ok {
		return strconv.Quote(value)
	}
	return "nothing"
}

// differences are the keys, sorted, that the two do not agree on.
func (s snapshot) differences(other snapshot) []string {
	differs := map[string]bool{}
	for key, value := range s {
		if v, ok := other[key]; !ok || v != value {
			differs[key] = true
		}
	}
	for key := range other {
		if _, ok := s[key]; !ok {
			differs[key] = true
		}
	}
	return slices.Sorted(maps.Keys(differs))
}

// mustEqual is an error that names a key when two snapshots differ.
func mustEqual(nameA string, a snapshot, nameB string, b snapshot) error {
	keys := a.differences(b)
	if len(keys) == 0 {
		return nil
	}
	return fmt.Errorf("%s and %s differ in %s keys, the first being %s: %s has %s, %s has %s",
		nameA, nameB, thousands(len(keys)), keys[0], nameA, a.show(keys[0]), nameB, b.show(keys[0]))
}
