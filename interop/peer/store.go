package main

import (
	"os"

	badger "github.com/ipfs/go-ds-badger4"
)

// openStore opens a badger store that is small: the default sets aside hundreds of
// megabytes, and the tests run several peers at a time.
func openStore(dir string) (*badger.Datastore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	opts := badger.DefaultOptions
	opts.Options = opts.Options.
		WithMemTableSize(8 << 20).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(8 << 20)
	return badger.NewDatastore(dir, &opts)
}
