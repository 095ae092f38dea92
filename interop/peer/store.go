package main

import (
	"os"

	badger "github.com/ipfs/go-ds-badger4"
)

// openStore opens a badger store that is small, since the tests run several peers
// at a time. Its memtables are not: they bound what badger writes in one piece.
func openStore(dir string) (*badger.Datastore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	opts := badger.DefaultOptions
	opts.Options = opts.Options.
		WithNumMemtables(1).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(8 << 20)
	return badger.NewDatastore(dir, &opts)
}
