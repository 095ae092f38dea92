package crdt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The row of a checkpoint is
//
//	state, flags (1 byte each)
//	height, entries, bytes, blocks, done, since, length of the DAG's name, number of links (uvarints)
//	DAG name, versions, cover, links (32 bytes for each id)
//	for each segment its root (32 bytes) and how many ids it has (uvarint)

const (
	flagTaken = 1 << iota
	_         // of a state that there is no more
	flagRemovals
)

var errBadCheckpoint = errors.New("crdt: the store holds a malformed checkpoint row")

func (cp *checkpoint) encode() []byte {
	n, since := cp.snapshot, uint64(0)
	if !cp.since.IsZero() {
		since = uint64(cp.since.UnixNano())
	}
	b := []byte{byte(cp.state), cp.flags()}
	for _, v := range []uint64{cp.tip.Height, n.entries, n.bytes, n.blocks, cp.done, since, uint64(len(cp.tip.DAGName)), uint64(len(cp.links))} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, cp.tip.DAGName...)
	b = append(b, n.versions[:]...)
	b = append(b, n.cover[:]...)
	b = append(b, encodeIDs(cp.links)...)
	return appendSegments(b, cp.segments)
}

func appendSegments(b []byte, segments []segment) []byte {
	for _, seg := range segments {
		b = binary.AppendUvarint(append(b, seg.root[:]...), seg.ids)
	}
	return b
}

func (cp *checkpoint) flags() (flags byte) {
	for flag, set := range map[byte]bool{flagTaken: cp.taken, flagRemovals: cp.removals} {
		if set {
			flags |= flag
		}
	}
	return flags
}

func decodeCheckpoint(name string, b []byte) (*checkpoint, error) {
	_, id, ok := splitID(name)
	if !ok || len(b) < 2 || b[0] > byte(lastCheckpointState) {
		return nil, fmt.Errorf("%w %q", errBadCheckpoint, name)
	}
	cp := &checkpoint{id: id, state: checkpointState(b[0]), taken: b[1]&flagTaken != 0, removals: b[1]&flagRemovals != 0}
	r := &rowReader{rest: b[2:]}
	if cp.read(r); r.failed {
		return nil, fmt.Errorf("%w %q", errBadCheckpoint, name)
	}
	return cp, nil
}

func (cp *checkpoint) read(r *rowReader) {
	var since, name, links uint64
	n := &cp.snapshot
	for _, v := range []*uint64{&cp.tip.Height, &n.entries, &n.bytes, &n.blocks, &cp.done, &since, &name, &links} {
		*v = r.uvarint()
	}
	if since > 0 {
		cp.since = time.Unix(0, int64(since))
	}
	cp.tip.DAGName = string(r.take(name))
	n.versions, n.cover = r.id(), r.id()
	for ; links > 0 && !r.failed; links-- {
		cp.links = append(cp.links, r.id())
	}
	cp.segments = r.segments()
}

// loadCheckpoints reads what the store knows of checkpoints.
func (s *rowStore) loadCheckpoints(ctx context.Context) (checkpoints, error) {
	all := make(checkpoints)
	for e, err := range s.rowsOf(ctx, s.keys.checkpoints, 1, false) {
		var cp *checkpoint
		if err == nil {
			cp, err = decodeCheckpoint(e.Key, e.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("crdt: loading checkpoints: %w", err)
		}
		all[cp.id] = cp
	}
	return all, nil
}
