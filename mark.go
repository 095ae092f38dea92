package crdt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	ds "github.com/ipfs/go-datastore"
)

// A mark says what a replica knows of a block.
type mark struct {
	state markState

	// Of a pending block alone is stored how many of its links are not
	// complete yet, and what makes it a head when the last of them is.
	missing   uint64
	tip       HeadValue
	links     []blockID // none: they are many, and stand in a row of their own
	neverHead bool      // it is below a complete block, and must not become a head

	changed bool // in this commit: its row is to be written
}

// fewLinks stand in a pending block's mark, which saves a row for most blocks. A
// mark is written again for every link that becomes complete, so many must not.
const fewLinks = 8

type markState byte

// neverHeadBit is set in the stored state of a block that must not become a head.
const neverHeadBit = 1 << 7

const (
	unknown  markState = iota // not merged, no row
	complete                  // merged, with its whole history
	pending                   // merged; history is missing
	refused                   // breaks the rules; never merged
	stranded                  // merged, but some history was refused: never a head
)

// merged reports whether the block's delta is in the set.
func (s markState) merged() bool { return s == complete || s == pending || s == stranded }

var errBadMark = errors.New("crdt: the store holds a malformed block row")

// encode writes the value of a block's row. It is empty for a complete block,
// as in the older formats.
func (m *mark) encode() []byte {
	if m.state == complete {
		return []byte{}
	}
	b := []byte{byte(m.state)}
	if m.state != pending {
		return b
	}
	if m.neverHead {
		b[0] |= neverHeadBit
	}
	b = binary.AppendUvarint(b, m.missing)
	b = binary.AppendUvarint(b, m.tip.Height)
	b = binary.AppendUvarint(b, uint64(len(m.tip.DAGName)))
	b = append(b, m.tip.DAGName...)
	return append(b, encodeIDs(m.links)...)
}

func decodeMark(b []byte) (*mark, error) {
	if len(b) == 0 {
		return &mark{state: complete}, nil
	}
	switch state := markState(b[0] &^ neverHeadBit); {
	case state == pending:
		m := &mark{state: pending, neverHead: b[0]&neverHeadBit != 0}
		return m, m.decodePending(b[1:])
	case len(b) == 1 && (b[0] == byte(refused) || b[0] == byte(stranded)):
		return &mark{state: state}, nil
	}
	return nil, errBadMark
}

func (m *mark) decodePending(b []byte) error {
	r := rowReader{rest: b}
	m.missing, m.tip.Height = r.uvarint(), r.uvarint()
	m.tip.DAGName = string(r.take(r.uvarint()))
	links, ok := decodeIDs(r.rest)
	if r.failed || !ok {
		return errBadMark
	}
	m.links = links
	return nil
}

// What to ask about a block. A commit asks dagChange.mark, which knows what it does itself.
//
//	          true if the block               its row     a cover that counts
//	isKnown   was merged or refused           is there    or has it
//	isHere    was merged, and can be read     says so     is not asked
//	isGone    was merged, and cannot be read  is missing  and has it
//	covered   is below a held checkpoint      not asked   has it
//	mark      (tells all that is known)       says it     beats no row, and one that is pending
//	markRow   (tells what the row says)       says it     is not asked: isGone is unknown
//
// Whoever is about to fetch a block asks isKnown; who is about to read one isHere; who walks
// down isGone, where to stop; and mark is for all that merges.

// mark returns what is known of a block: its row says it, or else a cover that the
// block is in. It is complete then, also if the row says that it is pending: what it
// waits for need never come.
func (s *rowStore) mark(ctx context.Context, id blockID) (*mark, error) {
	m, err := s.markRow(ctx, id)
	if err != nil || m.state != unknown && m.state != pending {
		return m, err
	}
	covered, err := s.covered(ctx, id)
	if covered {
		return &mark{state: complete}, nil
	}
	return m, err
}

// markRow reads the row of a block. One that has been merged and is not in the DAG
// service has none.
func (s *rowStore) markRow(ctx context.Context, id blockID) (*mark, error) {
	b, found, err := s.getRow(ctx, s.keys.block(id))
	if err == nil && !found {
		return &mark{state: unknown}, nil
	}
	var m *mark
	if err == nil {
		m, err = decodeMark(b)
	}
	if err != nil {
		return nil, fmt.Errorf("crdt: block %s: %w", id.Cid(), err)
	}
	return m, nil
}

// isKnown reports whether a block has been merged or refused.
func (s *rowStore) isKnown(ctx context.Context, id blockID) (bool, error) {
	if here, err := s.Has(ctx, s.keys.block(id)); here || err != nil {
		return here, err
	}
	return s.covered(ctx, id)
}

// isGone reports whether a block has been merged and is not here: it has been dropped,
// or has come with a snapshot alone.
func (s *rowStore) isGone(ctx context.Context, id blockID) (bool, error) {
	if s.covers.none() {
		return false, nil
	}
	if here, err := s.Has(ctx, s.keys.block(id)); here || err != nil {
		return false, err
	}
	return s.covered(ctx, id)
}

// isHere reports whether a block has been merged and is in the DAG service.
func (s *rowStore) isHere(ctx context.Context, id blockID) (bool, error) {
	m, err := s.markRow(ctx, id)
	return err == nil && m.state.merged(), err
}

func encodeIDs(ids []blockID) []byte {
	b := make([]byte, 0, len(ids)*len(blockID{}))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// idsIn reads a row that lists blocks.
func (s *rowStore) idsIn(ctx context.Context, key ds.Key) (ids []blockID, found bool, err error) {
	b, found, err := s.getRow(ctx, key)
	if err != nil {
		return nil, false, err
	}
	ids, ok := decodeIDs(b)
	if !ok {
		return nil, found, fmt.Errorf("crdt: row %s holds no list of blocks: %d bytes", key, len(b))
	}
	return ids, found, nil
}

func decodeIDs(b []byte) (ids []blockID, ok bool) {
	ids = make([]blockID, 0, len(b)/len(blockID{}))
	for ; len(b) >= len(blockID{}); b = b[len(blockID{}):] {
		ids = append(ids, blockID(b))
	}
	return ids, len(b) == 0
}
