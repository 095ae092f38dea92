package main

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	pebbleds "github.com/ipfs/go-ds-pebble"
)

// openPebble opens a store that takes about 350 MiB. When it is built with cgo,
// the cache and the memtables are not on the Go heap: see the RSS for them.
//
// Writes are not synced, as is the default of go-ds-pebble. Pebble then hands
// them to the system a little later: a crash of the program loses the last ones,
// and one of the machine may lose more. See openBadger.
func openPebble(dir string) (store, error) {
	opts := &pebble.Options{
		// Values can be kept apart from this version on.
		FormatMajorVersion: pebble.FormatValueSeparation,
		// There are two of them. The default of 4 MiB makes many small tables.
		MemTableSize: 32 << 20,
		// While a load goes on, level 0 may grow before writes have to wait.
		L0StopWritesThreshold:      24,
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, 2 },
	}
	for i := range opts.Levels {
		// Writing looks up keys that are not there yet. Pebble has no filters by
		// default, and would read a block in every level to say so.
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		// The values are random.
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	opts.Experimental.ValueSeparationPolicy = keepLargeValuesApart
	// The memtables are taken off the cache, and what is left must have room for
	// the filters and the indices, or every lookup reads them from disk.
	return pebbleds.NewDatastore(dir, pebbleds.WithPebbleOpts(opts), pebbleds.WithCacheSize(256<<20))
}

// keepLargeValuesApart keeps the blocks of the DAG out of compactions. Those that
// checkpoints have dropped lie in old files, which go as a whole: none is ever rewritten.
func keepLargeValuesApart() pebble.ValueSeparationPolicy {
	return pebble.ValueSeparationPolicy{
		Enabled:               true,
		MinimumSize:           largeValue,
		MaxBlobReferenceDepth: 10,
		TargetGarbageRatio:    1,
	}
}
