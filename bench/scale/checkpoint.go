package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"time"

	"github.com/dustin/go-humanize"
	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
)

// checkpointing sets the options of a replica whose history stops to grow.
func (c *config) checkpointing(o *crdt.Options) {
	o.SupersedingPuts, o.CheckpointEvery, o.KeepHistory = true, c.every, time.Second
}

// overwrite writes keys at random again, in batches. They keep their values, so that what
// is verified is the same.
func (b *bench) overwrite(ctx context.Context, r *replica) error {
	if b.overwrites == 0 {
		return nil
	}
	end, err := b.profile("overwrite")
	if err != nil {
		return err
	}
	m := b.meter("overwrite", b.overwrites, r.dir)
	random := rand.New(rand.NewPCG(seed, 2))
	for m.count.Load() < int64(b.overwrites) && err == nil {
		err = b.overwriteBatch(ctx, r, random)
		m.add(batchSize)
	}
	return errors.Join(err, m.stop(), end())
}

func (b *bench) overwriteBatch(ctx context.Context, r *replica, random *rand.Rand) error {
	return b.commitBatch(ctx, r.Datastore, func(batch ds.Batch) error {
		for range batchSize {
			i := random.IntN(b.keys)
			if err := batch.Put(ctx, b.key(i), value(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkpoint makes one of all that is there, and drops the history that it covers.
func (b *bench) checkpoint(ctx context.Context, r *replica) error {
	if !b.checkpoints {
		return nil
	}
	end, err := b.profile("checkpoint")
	if err != nil {
		return err
	}
	runtime.GC()
	before := liveHeap()
	b.sampler.take()
	begun := time.Now()
	_, err = r.Checkpoint(ctx)
	_, peak := b.sampler.take()
	fmt.Fprintf(b.out, "checkpoint  %s, heap from %s to %s at most\n", ms(time.Since(begun)), humanize.IBytes(before), humanize.IBytes(peak.heap))
	if err != nil {
		return errors.Join(err, end())
	}
	begun = time.Now()
	dropped, err := r.Compact(ctx)
	fmt.Fprintf(b.out, "compact     %s, %s blocks and %s rows dropped, %s\n", ms(time.Since(begun)), humanize.Comma(int64(dropped.Blocks)), humanize.Comma(int64(dropped.Rows)), humanize.IBytes(uint64(dropped.Bytes)))
	return errors.Join(err, end())
}

// liveHeap is what objects take that were not garbage when it was collected last.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
