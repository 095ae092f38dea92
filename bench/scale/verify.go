package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// sampleSize is how many keys are compared.
const sampleSize = 20_000

// verify reads a sample from the second replica and counts the keys of both. It
// returns how many it read.
func (b *bench) verify(ctx context.Context, first, second *replica) (sampled int, err error) {
	sampled = min(b.keys, sampleSize)
	r := rand.New(rand.NewPCG(seed, seed))
	for range sampled {
		if err := b.verifyKey(ctx, second, r.IntN(b.keys)); err != nil {
			return 0, err
		}
	}
	if err := b.countKeys(ctx, "first", first); err != nil {
		return 0, err
	}
	return sampled, b.countKeys(ctx, "second", second)
}

func (b *bench) verifyKey(ctx context.Context, in *replica, i int) error {
	got, err := in.Get(ctx, b.key(i))
	if err != nil {
		return fmt.Errorf("%s: %w", b.key(i), err)
	}
	if !bytes.Equal(got, value(i)) {
		return fmt.Errorf("%s has a value that was not put", b.key(i))
	}
	return nil
}

// countKeys counts without holding more than a key in memory.
func (b *bench) countKeys(ctx context.Context, name string, in *replica) error {
	var count atomic.Int64
	finish := show(b.out, "count", b.keys, in.dir, func() int { return int(count.Load()) })
	defer finish()
	for _, err := range ds.QueryIter(ctx, in.Datastore, query.Query{KeysOnly: true}) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		count.Add(1)
	}
	if n := int(count.Load()); n != b.keys {
		return fmt.Errorf("the %s replica has %d keys instead of %d", name, n, b.keys)
	}
	return nil
}
