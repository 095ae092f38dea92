package crdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A version is one (key, block) pair: the value that a block gave to a key.
type version struct {
	id       blockID
	priority uint64
	value    []byte

	// keepValue is set for a claim, and where the block may not be here for another
	// reason: when the version loses, its value is stored with it.
	keepValue bool

	added bool // in this commit
}

// beats reports whether v, and not w, is the value of their key: the one of the
// higher priority, then of the greater value. Only this function decides that. The id
// makes the choice among equal values a fixed one.
func (v *version) beats(w *version) bool {
	if v.priority != w.priority {
		return v.priority > w.priority
	}
	if c := bytes.Compare(v.value, w.value); c != 0 {
		return c > 0
	}
	return v.id.compare(w.id) > 0
}

// A record is what the store holds for a key with live versions: the winner,
// and whether others may exist.
type record struct {
	version
	// losers is set while rows of losing versions may exist.
	losers bool
	// low is set when all of these are known to be below maxPriority.
	low bool
	// unresolved marks a record that was migrated from an older format with
	// several live versions: id is not known, and the winner's version is
	// among the losers as well.
	unresolved bool
}

// A stored record is a header of fixed size, so that the size of a value can
// be told from the size of the row, and then the value:
//
//	flags (1 byte) | priority (8 bytes, big endian) | block id (32 bytes) | value
const recordHeader = 1 + 8 + len(blockID{})

const (
	flagRecord     = 1 << 0 // always set
	flagLosers     = 1 << 1
	flagUnresolved = 1 << 2
	flagKeepValue  = 1 << 3
	flagLow        = 1 << 4
	knownFlags     = flagRecord | flagLosers | flagUnresolved | flagKeepValue | flagLow
)

var errBadRecord = errors.New("crdt: the store holds a malformed record")

func (r *record) encode() []byte {
	b := make([]byte, recordHeader, recordHeader+len(r.value))
	b[0] = flagRecord
	if r.losers {
		b[0] |= flagLosers
	}
	if r.unresolved {
		b[0] |= flagUnresolved
	}
	if r.keepValue {
		b[0] |= flagKeepValue
	}
	if r.low {
		b[0] |= flagLow
	}
	binary.BigEndian.PutUint64(b[1:], r.priority)
	copy(b[9:], r.id[:])
	return append(b, r.value...)
}

// decodeRecord reads a record; its value is part of b.
func decodeRecord(b []byte) (*record, error) {
	value, err := recordValue(b)
	if err != nil {
		return nil, err
	}
	return &record{
		version:    version{id: blockID(b[9:recordHeader]), priority: binary.BigEndian.Uint64(b[1:]), value: value, keepValue: b[0]&flagKeepValue != 0},
		losers:     b[0]&flagLosers != 0,
		unresolved: b[0]&flagUnresolved != 0,
		low:        b[0]&flagLow != 0,
	}, nil
}

// recordValue returns the value in a record.
func recordValue(b []byte) ([]byte, error) {
	if len(b) < recordHeader || b[0]&flagRecord == 0 || b[0]&^knownFlags != 0 {
		return nil, fmt.Errorf("%w of %d bytes", errBadRecord, len(b))
	}
	return b[recordHeader:len(b):len(b)], nil
}

// A loser is a live version that is not its key's value. Its block has the
// value, so the store keeps the priority alone, and the value too if the block
// may not be here. Of a migrated loser not even the priority is known.
type loser struct {
	version
	unranked bool     // the priority is not known, nor is the value
	hasValue bool     // the value is known
	beatenBy *blockID // the value has been read, and lost to that of this block; it is not held
}

// mayHave reports whether a loser has some priority at least, as far as is known.
func (l *loser) mayHave(least uint64) bool { return l.unranked || l.priority >= least }

// A stored loser is empty when nothing is known, and otherwise
//
//	1 if a value follows, else 0 (1 byte) | priority (8 bytes, big endian) | value
const loserHeader = 1 + 8

func (l *loser) encode() []byte {
	if l.unranked {
		return []byte{}
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 1, loserHeader+len(l.value)), l.priority)
	if l.keepValue {
		b[0] = 1
		b = append(b, l.value...)
	}
	return b
}

func decodeLoser(id blockID, b []byte) (*loser, error) {
	l := &loser{version: version{id: id}, unranked: len(b) == 0}
	if l.unranked {
		return l, nil
	}
	if len(b) < loserHeader || b[0] > 1 || (b[0] == 0 && len(b) > loserHeader) {
		return nil, fmt.Errorf("%w of a losing version, %d bytes", errBadRecord, len(b))
	}
	l.priority = binary.BigEndian.Uint64(b[1:])
	if b[0] == 1 {
		l.value, l.hasValue, l.keepValue = b[loserHeader:len(b):len(b)], true, true
	}
	return l, nil
}

// same reports whether two records would be stored alike.
func (r *record) same(o *record) bool {
	return r.id == o.id && r.losers == o.losers && r.low == o.low && r.unresolved == o.unresolved && r.keepValue == o.keepValue && sameValue(&r.version, &o.version)
}

func sameValue(v, w *version) bool {
	return v.priority == w.priority && bytes.Equal(v.value, w.value)
}
