package main

// What the controller and a replica say to each other, by net/rpc over the replica's
// stdin and stdout. Service has the calls.

// Pair is a key and its value. It is exported for gob, as all of this file's fields are.
type Pair struct{ Key, Value string }

// Change is what one call writes: a single Put or Delete, or a ds.Batch.
type Change struct {
	Puts    []Pair
	Deletes []string
	Batch   bool
}

func (c Change) len() int { return len(c.Puts) + len(c.Deletes) }

// Link is another replica, and whether it is to be out of reach.
type Link struct {
	Addr string
	Cut  bool
}

// State is a glance at a replica. It is cheap.
type State struct {
	Heads      []string // sorted
	Height     uint64
	Missing    int    // blocks known to be missing
	Heap       uint64 // bytes, with what is not collected yet
	Goroutines int
}

// Usage is what a replica takes after a garbage collection, in bytes.
type Usage struct {
	Heap       uint64 // without what Badger allocated
	Badger     uint64 // an estimate; mostly memtables, and tables while they are built
	Crdt       uint64 // an estimate of what package crdt allocated, or others for it
	Goroutines int
	Blocks     int    // that have marks: all that were merged, if no history is dropped
	Rows       int    // in the store, blocks too
	Stored     uint64 // in them
}
