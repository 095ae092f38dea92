package main

import "runtime"

// disk measures what a key takes of the store and of the allocator. The blocks, in
// memory, are not on the disk.
func disk(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	pairs := makePairs("/bench", e.size(100_000))
	before := allocated()
	if err := putBatches(1000)(e.ctx, db, pairs); err != nil {
		return err
	}
	e.lower("allocated", float64(allocated()-before)/float64(len(pairs)), "B/key")
	if err := verify(e.ctx, db, pairs); err != nil {
		return err
	}
	if err := e.close(); err != nil { // a store writes more while it closes
		return err
	}
	total, err := diskBytes(e.dir)
	if err != nil {
		return err
	}
	e.lower("disk", float64(total)/float64(len(pairs)), "B/key")
	return nil
}

// allocated is how many bytes have been allocated since the program began.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}
