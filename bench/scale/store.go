package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	ds "github.com/ipfs/go-datastore"
)

// A store is a datastore on disk. It holds the rows of a replica and, below
// /blocks, its blocks: that is how one would run it, because then one Sync
// covers a row and the block that it needs, and there is one cache and one set
// of write buffers to pay for. Both kinds of store can be told to keep large
// values, which the blocks are, out of the tables that they merge over and over.
type store interface {
	ds.Batching
	ds.PersistentDatastore
}

var opener = map[string]func(dir string) (store, error){
	"badger": openBadger,
	"pebble": openPebble,
}

func storeKinds() []string { return slices.Sorted(maps.Keys(opener)) }

func openStore(kind, dir string) (store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := opener[kind](dir)
	if err != nil {
		return nil, fmt.Errorf("opening %s in %s: %w", kind, dir, err)
	}
	return s, nil
}

// largeValue is where a value is large enough to be kept apart. A record of this
// program has 141 bytes, a block of 1,000 keys about 130,000.
const largeValue = 4 << 10
