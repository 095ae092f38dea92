package bed

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"
	badger "github.com/ipfs/go-ds-badger4"
	pebble "github.com/ipfs/go-ds-pebble"
)

// The kinds of stores.
const (
	Badger = "badger"
	Pebble = "pebble"
	Map    = "map" // go-datastore's, with a lock around it
)

// OpenStore opens a store that does not wait for the disk: how fast that is says
// nothing about a replica.
func OpenStore(kind, dir string) (ds.Batching, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	switch kind {
	case Badger:
		opts := badger.DefaultOptions
		opts.Options = opts.WithSyncWrites(false)
		return badger.NewDatastore(dir, &opts)
	case Pebble:
		return pebble.NewDatastore(dir) // does not sync unless told to
	case Map:
		return sync.MutexWrap(ds.NewMapDatastore()), nil
	}
	return nil, fmt.Errorf("there is no store %q, only %s, %s and %s", kind, Badger, Pebble, Map)
}

// DiskBytes is what the files below a directory take up. Stores make files with holes,
// so their lengths would not do.
func DiskBytes(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return total, err
}
