package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
)

// formatVersion is the format that this code reads and writes.
const formatVersion = 2

// The version row of our stores begins with the format plus 1 and the bit by
// which a uvarint goes on, and never ends. The old module fails on that. A
// number that it does not know it would take for its own, show the store empty,
// and write to it.
const (
	unended        = 1 << 7
	ownRow         = "\x83"
	mixedRow       = "\x83\x80" // rows of an older format are being merged (mixed.go)
	downgradingRow = "\x83\x81" // the store is on its way to format 1 (downgrade.go)
)

// storedVersion returns the format of the store, and the version row that says
// so. It also reads the plain uvarint of formats 0 and 1, which stores of format
// 2 had at first.
func storedVersion(ctx context.Context, store *rowStore) (version uint64, stamp string, err error) {
	b, found, err := store.getRow(ctx, store.keys.version)
	if err != nil || !found {
		return 0, "", err
	}
	v, n := binary.Uvarint(b)
	if 0 < len(b) && len(b) <= len(mixedRow) && b[len(b)-1]&unended != 0 {
		v, n = uint64(b[0]&^unended), 1
	}
	switch {
	case n <= 0 || v == 0:
		return 0, "", fmt.Errorf("crdt: row %s holds no format version: %x", store.keys.version, b)
	case v > formatVersion+1:
		return 0, "", fmt.Errorf("%w: it is %d, this code knows up to %d", ErrNewerVersion, v-1, formatVersion)
	}
	return v - 1, string(b), nil
}

// stampVersion writes the version row.
func stampVersion(ctx context.Context, store *rowStore, stamp string) error {
	rows := []row{{key: store.keys.version, value: []byte(stamp)}}
	if done, err := store.holds(ctx, rows); done || err != nil {
		return err
	}
	return store.Put(ctx, rows[0].key, rows[0].value)
}
