package main

import (
	"github.com/dgraph-io/badger/v4/options"
	badger "github.com/ipfs/go-ds-badger4"
)

// openBadger opens a store for which half of the default limit on the heap is
// enough, so that two of them fit, as they must while the second replica joins.
// With Badger's own defaults, one alone can take all of it.
//
// SyncWrites is off, as it is by default. A write is then in a memory-mapped log
// when it returns: it survives a crash of the program but not one of the machine,
// and this program would not notice either. With it on, the time of the disk's
// flush would hide that of the replica.
func openBadger(dir string) (store, error) {
	opts := badger.DefaultOptions
	opts.Options = opts.Options.
		// A memtable is a slice on the heap of a third more than this. It bounds
		// a transaction, too: 15 % of it, and a batch beyond that is cut in
		// parts. The replica takes 8 MiB for atomic, so it must not be smaller.
		WithMemTableSize(64 << 20).
		// Besides the one that is written to, this many may wait to be flushed.
		// The default of 5 takes 400 MiB, and every lookup asks them all.
		WithNumMemtables(1).
		// The values are random. Without compression, blocks are read from
		// memory-mapped tables where they lie, and there is nothing to cache.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		// Writing looks up keys that are not there yet, which the bloom filters
		// answer. At the default of 0.01, with ten tables to ask, every tenth
		// lookup would still read a block.
		WithBloomFalsePositive(0.001).
		// The blocks of the DAG go to the value log and are never written again.
		WithValueThreshold(largeValue).
		// Badger maps twice this size at once. A file need not be that large.
		WithValueLogFileSize(256 << 20).
		// Two is the least, and each builds tables on the heap.
		WithNumCompactors(2).
		// Nothing here reads and writes in one transaction. Else Badger
		// keeps a hash of every key of the last transactions.
		WithDetectConflicts(false)
	// A compaction builds up to a dozen tables on the heap at a time. By default
	// those of the lower levels are twice as large as those above, and so on.
	opts.TableSizeMultiplier = 1
	return badger.NewDatastore(dir, &opts)
}
