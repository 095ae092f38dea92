package main

import (
	"context"
	"errors"

	ds "github.com/ipfs/go-datastore"
)

// load writes all keys to a replica, batch after batch.
func (b *bench) load(ctx context.Context, into *replica) error {
	end, err := b.profile("load")
	if err != nil {
		return err
	}
	m := b.meter("load", b.keys, into.dir)
	err = b.batches(func(from, to int) error {
		if err := b.putBatch(ctx, into.Datastore, from, to); err != nil {
			return err
		}
		m.add(to - from)
		return nil
	})
	return errors.Join(err, m.stop(), end())
}

func (b *bench) putBatch(ctx context.Context, into ds.Batching, from, to int) error {
	return b.commitBatch(ctx, into, func(batch ds.Batch) error {
		for i := from; i < to; i++ {
			if err := batch.Put(ctx, b.key(i), value(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) commitBatch(ctx context.Context, into ds.Batching, fill func(ds.Batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	batch, err := into.Batch(ctx)
	if err != nil {
		return err
	}
	if err := fill(batch); err != nil {
		return err
	}
	return batch.Commit(ctx)
}
