package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
)

// Formats that this code reads and writes. A store becomes one of coveredVersion when it
// comes to have merged blocks of which only a cover says so: code that knows no covers
// would merge them again, and bring removed values back.
const (
	formatVersion  = 2
	coveredVersion = 3
)

// The version row of our stores begins with the format plus 1 and the bit by
// which a uvarint goes on, and never ends. The old module fails on that. A
// number that it does not know it would take for its own, show the store empty,
// and write to it.
const (
	unended        = 1 << 7
	ownRow         = "\x83"
	coveredRow     = "\x84"
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
	case v > coveredVersion+1, v == coveredVersion+1 && string(b) != coveredRow:
		return 0, "", fmt.Errorf("%w: its version row is %x, this code knows formats up to %d", ErrNewerVersion, b, coveredVersion)
	}
	return v - 1, string(b), nil
}

// stampVersion writes the version row.
func stampVersion(ctx context.Context, store *rowStore, stamp string) error {
	rows := []row{{key: store.keys.version, value: []byte(stamp)}}
	if done, err := store.hasAll(ctx, rows); done || err != nil {
		return err
	}
	return store.Put(ctx, rows[0].key, rows[0].value)
}

// raiseFormat makes the store one of coveredVersion, if it is not one yet. Call it before
// a commit after which only a cover says of some block that it has been merged.
func (c *committer) raiseFormat(ctx context.Context) error {
	return c.attempt(ctx, nil, func(now *commit) error {
		stamp := row{key: c.store.keys.version, value: []byte(coveredRow)}
		raised, err := c.store.hasAll(ctx, []row{stamp})
		if !raised {
			now.rows = append(now.rows, stamp)
		}
		return err
	})
}
