package main

import (
	"context"
	"slices"

	ds "github.com/ipfs/go-datastore"
	"golang.org/x/sync/errgroup"
)

// writes measures one way to write n new keys.
func writes(n int, write func(context.Context, ds.Batching, []pair) error) func(*env) error {
	return func(e *env) error {
		db, err := e.openDatabase()
		if err != nil {
			return err
		}
		pairs := makePairs("/bench", e.size(n))
		took, err := timed(func() error { return write(e.ctx, db, pairs) })
		if err != nil {
			return err
		}
		e.rate("rate", len(pairs), took)
		return verify(e.ctx, db, pairs)
	}
}

// putAll writes the pairs one by one.
func putAll(ctx context.Context, db ds.Batching, pairs []pair) error {
	return putEach(ctx, db, pairs)
}

func putEach(ctx context.Context, to ds.Write, pairs []pair) error {
	for _, p := range pairs {
		if err := to.Put(ctx, p.key, p.value); err != nil {
			return err
		}
	}
	return nil
}

// putConcurrently lets each of 64 goroutines write a part of the pairs one by one.
func putConcurrently(ctx context.Context, db ds.Batching, pairs []pair) error {
	group, ctx := errgroup.WithContext(ctx)
	for part := range slices.Chunk(pairs, (len(pairs)+63)/64) {
		group.Go(func() error { return putEach(ctx, db, part) })
	}
	return group.Wait()
}

// putBatches writes the pairs in batches of a size.
func putBatches(size int) func(context.Context, ds.Batching, []pair) error {
	return func(ctx context.Context, db ds.Batching, pairs []pair) error {
		for part := range slices.Chunk(pairs, size) {
			if err := putBatch(ctx, db, part); err != nil {
				return err
			}
		}
		return nil
	}
}

func putBatch(ctx context.Context, db ds.Batching, pairs []pair) error {
	batch, err := db.Batch(ctx)
	if err != nil {
		return err
	}
	if err := putEach(ctx, batch, pairs); err != nil {
		return err
	}
	return batch.Commit(ctx)
}
