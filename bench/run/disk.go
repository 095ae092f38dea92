package main

import (
	"context"
	"path/filepath"
	"runtime"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// disk measures what a key takes of the store and of the allocator. The blocks, in
// memory, are not on the disk.
func disk(n int, write func(context.Context, ds.Batching, []pair) error) func(*env) error {
	return func(e *env) error {
		db, err := e.openDatabase()
		if err != nil {
			return err
		}
		pairs := makePairs("/bench", e.size(n))
		before := allocated()
		if err := write(e.ctx, db, pairs); err != nil {
			return err
		}
		e.lower("allocated", float64(allocated()-before)/float64(len(pairs)), "B/key")
		if err := verify(e.ctx, db, pairs); err != nil {
			return err
		}
		return e.reportDisk(len(pairs))
	}
}

// reportDisk closes the store and opens it once more: it then moves what it had in its
// log to its tables.
func (e *env) reportDisk(keys int) error {
	if err := e.close(); err != nil {
		return err
	}
	store, err := bed.OpenStore(e.kind, filepath.Join(e.dir, "1"))
	if err != nil {
		return err
	}
	if err := store.Close(); err != nil {
		return err
	}
	total, err := bed.DiskBytes(e.dir)
	if err != nil {
		return err
	}
	e.lower("disk", float64(total)/float64(keys), "B/key")
	return nil
}

// allocated is how many bytes have been allocated since the program began.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}
