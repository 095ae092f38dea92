package crdt

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
)

// A sorter puts changes in order that need not fit in memory. They are kept packed,
// without a pointer in them. Whenever they outgrow the limit, they go to a temporary
// file as a sorted run, and what is read is all runs merged. A sorter belongs to one
// goroutine at a time. Close it at the end.
type sorter struct {
	limit int
	buf   []byte   // packed changes
	at    []uint32 // where in buf each begins
	file  *os.File // nil while there are no runs
	ends  []int64  // of the runs in it
}

// sorterLimit is how much one sorter keeps in memory. While a buffer grows to that,
// the old one is there as well.
const sorterLimit = 32 << 20

// runBuffer is what reading one run takes.
const runBuffer = 64 << 10

func newSorter() *sorter { return &sorter{limit: sorterLimit} }

func (s *sorter) add(c *treeChange) error {
	if len(s.at) > 0 && len(s.buf)+packedSize(c)+4*len(s.at) > s.limit {
		if err := s.spill(); err != nil {
			return fmt.Errorf("crdt: sorting in a temporary file: %w", err)
		}
	}
	s.at = append(s.at, uint32(len(s.buf)))
	s.buf = appendPacked(s.buf, c)
	return nil
}

// all yields what was added, in the order of entry.compare. Of changes of one version it
// yields one: a removal, if there is any, or else the addition of the greatest value. It
// can be read once. A change is valid until the next one.
func (s *sorter) all() iter.Seq2[*treeChange, error] {
	return func(yield func(*treeChange, error) bool) {
		var last packedChange
		for now, err := range mergeSources(packedChange.compare, s.runs()) {
			if err != nil {
				yield(nil, fmt.Errorf("crdt: reading a temporary file: %w", err))
				return
			}
			if last == nil || now.item.compareNames(last) != 0 {
				last = append(last[:0], now.item...)
				if !yield(last.unpack(), nil) {
					return
				}
			}
		}
	}
}

func (s *sorter) close() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name()) // where an open file could not be removed
	}
}

// spill makes what is in memory a run of the file.
func (s *sorter) spill() (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp("", "crdt-fold-"); err != nil {
			return err
		}
		_ = os.Remove(s.file.Name()) // it goes with the process, however that ends
	}
	s.sort()
	end, w := s.end(), bufio.NewWriterSize(s.file, runBuffer)
	for _, at := range s.at {
		n, err := w.Write(s.packed(at))
		if err != nil {
			return err
		}
		end += int64(n)
	}
	s.ends = append(s.ends, end)
	s.buf, s.at = s.buf[:0], s.at[:0]
	return w.Flush()
}

// end is that of the last run.
func (s *sorter) end() int64 {
	if len(s.ends) == 0 {
		return 0
	}
	return s.ends[len(s.ends)-1]
}

func (s *sorter) packed(at uint32) packedChange {
	p := packedChange(s.buf[at:])
	return p[:p.size()]
}

func (s *sorter) sort() {
	slices.SortFunc(s.at, func(a, b uint32) int { return s.packed(a).compare(s.packed(b)) })
}

// runs returns all runs, the one in memory too.
func (s *sorter) runs() []source[packedChange] {
	s.sort()
	runs, begin := []source[packedChange]{s.memory()}, int64(0)
	for _, end := range s.ends {
		r := bufio.NewReaderSize(io.NewSectionReader(s.file, begin, end-begin), runBuffer)
		var p packedChange
		runs, begin = append(runs, func() (_ packedChange, err error, ok bool) {
			if p, err = readPacked(r, p); errors.Is(err, io.EOF) {
				return nil, nil, false
			}
			return p, err, err == nil
		}), end
	}
	return runs
}

// memory reads the run in memory.
func (s *sorter) memory() source[packedChange] {
	i := 0
	return func() (packedChange, error, bool) {
		if i == len(s.at) {
			return nil, nil, false
		}
		i++
		return s.packed(s.at[i-1]), nil, true
	}
}

// A packedChange is a treeChange in bytes: its kind, the block's id, the priority, the
// lengths of key and value, and these.
type packedChange []byte

const (
	packedTombstone = 1 << iota
	packedRemoved
)

const (
	packedID       = 1
	packedPriority = packedID + len(blockID{})
	packedKeyLen   = packedPriority + 8
	packedValueLen = packedKeyLen + 4
	packedKey      = packedValueLen + 4
)

func packedSize(c *treeChange) int { return packedKey + len(c.key) + len(c.value) }

func appendPacked(b []byte, c *treeChange) []byte {
	kind := byte(0)
	if c.tombstone {
		kind |= packedTombstone
	}
	if c.removed {
		kind |= packedRemoved
	}
	b = append(append(b, kind), c.id[:]...)
	b = binary.BigEndian.AppendUint64(b, c.priority)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.key)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.value)))
	return append(append(b, c.key...), c.value...)
}

// readPacked reads a change into p, or into more memory.
func readPacked(from io.Reader, p packedChange) (packedChange, error) {
	p = slices.Grow(p[:0], packedKey)[:packedKey]
	if _, err := io.ReadFull(from, p); err != nil {
		return p, err
	}
	p = slices.Grow(p, p.size()-packedKey)[:p.size()]
	_, err := io.ReadFull(from, p[packedKey:])
	return p, err
}

func (p packedChange) keyLen() int   { return int(binary.BigEndian.Uint32(p[packedKeyLen:])) }
func (p packedChange) valueLen() int { return int(binary.BigEndian.Uint32(p[packedValueLen:])) }
func (p packedChange) size() int     { return packedKey + p.keyLen() + p.valueLen() }
func (p packedChange) id() []byte    { return p[packedID:packedPriority] }
func (p packedChange) key() []byte   { return p[packedKey : packedKey+p.keyLen()] }
func (p packedChange) value() []byte { return p[packedKey+p.keyLen():] }

// compareNames compares as entry.compare does.
func (p packedChange) compareNames(o packedChange) int {
	tombstone := p[0] & packedTombstone
	if c := cmp.Compare(tombstone, o[0]&packedTombstone); c != 0 {
		return c
	}
	key, id := bytes.Compare(p.key(), o.key()), bytes.Compare(p.id(), o.id())
	if tombstone != 0 {
		return cmp.Or(id, key)
	}
	return cmp.Or(key, id)
}

// compare puts what counts before what does not.
func (p packedChange) compare(o packedChange) int {
	return cmp.Or(p.compareNames(o), cmp.Compare(o[0], p[0]), bytes.Compare(o.value(), p.value()))
}

func (p packedChange) unpack() *treeChange {
	return &treeChange{removed: p[0]&packedRemoved != 0, entry: entry{
		key:       string(p.key()),
		id:        blockID(p.id()),
		tombstone: p[0]&packedTombstone != 0,
		priority:  binary.BigEndian.Uint64(p[packedPriority:]),
		value:     p.value(),
	}}
}
