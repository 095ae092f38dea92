package crdt

import "encoding/binary"

// A rowReader takes the value of a row apart, until it fails.
type rowReader struct {
	rest   []byte
	failed bool
}

func (r *rowReader) take(n uint64) []byte {
	if r.failed = r.failed || n > uint64(len(r.rest)); r.failed {
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *rowReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.failed = r.failed || n <= 0
	r.take(uint64(max(n, 0)))
	return v
}

// segments reads to the end.
func (r *rowReader) segments() (all []segment) {
	for len(r.rest) > 0 && !r.failed {
		all = append(all, segment{root: r.id(), ids: r.uvarint()})
	}
	return all
}

func (r *rowReader) id() (id blockID) {
	copy(id[:], r.take(uint64(len(id))))
	return id
}
