package crdt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

// A pageBuilder makes the pages of one level of a versions tree, one after the other.
type pageBuilder struct {
	msg    pb.VersionsPage
	places map[blockID]uint32 // of ids in msg.Blocks
	links  []pageName
	last   string  // key
	size   int     // before it is encoded
	whole  subtree // what its parent will say of it
	child  subtree // the last one
}

func newPageBuilder(level int) *pageBuilder {
	p := &pageBuilder{places: make(map[blockID]uint32)}
	p.whole.level, p.msg.Level = level, uint32(level)
	return p
}

func (p *pageBuilder) empty() bool { return len(p.msg.Shared) == 0 }

// onlyChild returns the child of an inner page that has no other.
func (p *pageBuilder) onlyChild() *subtree {
	if len(p.msg.Entries) != 1 {
		return nil
	}
	return &p.child
}

// addEntry adds an entry to a leaf. It returns the size of it.
func (p *pageBuilder) addEntry(e *entry) (size int) {
	p.addName(e)
	t := totals{entries: 1, bytes: uint64(len(e.key) + e.valueSize())}
	size = entrySize + len(e.key) + len(e.value)
	if !e.tombstone {
		p.msg.Priorities = append(p.msg.Priorities, e.priority)
		p.msg.Sizes = append(p.msg.Sizes, uint64(e.valueSize()))
		p.msg.Values = append(p.msg.Values, e.value...)
	}
	if e.stored != nil {
		t.values = 1
		size = linkedSize + len(e.key)
		p.links = append(p.links, pageName{e.stored.id, true})
	}
	p.grow(t, size)
	return size
}

// addChild adds a child to an inner page. It returns the size of what is said of it.
func (p *pageBuilder) addChild(t *subtree) (size int) {
	p.addName(&t.first)
	p.child = *t
	p.msg.Entries = append(p.msg.Entries, t.entries)
	p.msg.Bytes = append(p.msg.Bytes, t.bytes)
	p.msg.ValueBlocks = append(p.msg.ValueBlocks, t.values)
	p.links = append(p.links, pageName{id: t.id})
	size = linkedSize + len(t.first.key)
	p.grow(t.totals, size)
	return size
}

func (p *pageBuilder) addName(e *entry) {
	if p.empty() {
		p.whole.first = e.name()
	}
	place, known := p.places[e.id]
	if !known {
		place = uint32(len(p.places))
		p.places[e.id] = place
		p.msg.Blocks = append(p.msg.Blocks, e.id[:]...)
	}
	shared := sharedPrefix(p.last, e.key)
	p.msg.Shared = append(p.msg.Shared, uint32(shared))
	p.msg.Suffixes = append(p.msg.Suffixes, uint32(len(e.key)-shared))
	p.msg.Keys = append(p.msg.Keys, e.key[shared:]...)
	p.msg.Block = append(p.msg.Block, place)
	if e.tombstone {
		p.msg.Tombstones++
	}
	p.last = e.key
}

func sharedPrefix(a, b string) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func (p *pageBuilder) grow(t totals, size int) {
	p.whole.add(t)
	p.size += size
}

// finish returns the page, and what its parent says of it, and begins the next one.
func (p *pageBuilder) finish() (page, subtree, error) {
	msg, err := proto.MarshalOptions{Deterministic: true}.Marshal(&p.msg)
	if err != nil {
		return page{}, subtree{}, err
	}
	data, err := encodePage(msg, p.links)
	if err != nil {
		return page{}, subtree{}, err
	}
	whole := p.whole
	whole.id = sha256.Sum256(data)
	p.reset()
	return page{id: whole.id, data: data}, whole, nil
}

// reset empties the page. It keeps the memory for the next one.
func (p *pageBuilder) reset() {
	m := &p.msg
	m.Blocks, m.Keys, m.Values = m.Blocks[:0], m.Keys[:0], m.Values[:0]
	m.Shared, m.Suffixes, m.Block, m.Tombstones = m.Shared[:0], m.Suffixes[:0], m.Block[:0], 0
	m.Priorities, m.Sizes = m.Priorities[:0], m.Sizes[:0]
	m.Entries, m.Bytes, m.ValueBlocks = m.Entries[:0], m.Bytes[:0], m.ValueBlocks[:0]
	clear(p.places)
	p.links, p.last, p.size, p.whole = p.links[:0], "", 0, subtree{level: p.whole.level}
}

// A treePage is a page of a versions tree that has been read: a leaf with entries, or an
// inner page with children.
type treePage struct {
	level    int
	entries  []entry
	children []subtree
	totals
}

// first returns the first entry in it or below, of which the key, the block and the kind
// are known; nil: there is none.
func (p *treePage) first() *entry {
	switch {
	case len(p.children) > 0:
		return &p.children[0].first
	case len(p.entries) > 0:
		return &p.entries[0]
	}
	return nil
}

// decodeTreePage reads a page of a versions tree, and checks all that can be seen of it
// alone. maxValue is the greatest size of a value. A page that is not cut where ours
// would be, or that is encoded in another way, passes.
func decodeTreePage(data []byte, maxValue int) (*treePage, error) {
	d := pageDecoder{maxValue: uint64(maxValue)}
	p, err := d.decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadSnapshot, err)
	}
	return p, nil
}

// A pageDecoder reads one page.
type pageDecoder struct {
	msg      pb.VersionsPage
	links    []blockID
	maxValue uint64
}

func (d *pageDecoder) decode(data []byte) (*treePage, error) {
	node, err := decodeNode(data)
	if err != nil {
		return nil, err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(node.Data(), &d.msg); err != nil {
		return nil, err
	}
	if d.msg.Level > maxLevel {
		return nil, fmt.Errorf("it is on level %d", d.msg.Level)
	}
	for _, l := range node.Links() {
		id, err := idIn(l.Cid, d.msg.Level == 0)
		if err != nil {
			return nil, err
		}
		d.links = append(d.links, id)
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	if d.msg.Level == 0 {
		return d.leaf(names)
	}
	return d.inner(names)
}

// errColumns says that columns do not go together.
var errColumns = errors.New("its columns do not fit")

// names reads the entries, or the first entries of the children, but for what follows
// from the other columns.
func (d *pageDecoder) names() ([]entry, error) {
	size, err := d.keyBytes()
	if err != nil {
		return nil, err
	}
	var keys strings.Builder // of all of them, in one piece
	keys.Grow(size)
	names, rest, last := make([]entry, len(d.msg.Shared)), d.msg.Keys, ""
	for i := range names {
		start, suffix := keys.Len(), d.msg.Suffixes[i]
		keys.WriteString(last[:d.msg.Shared[i]])
		keys.Write(rest[:suffix])
		last, rest = keys.String()[start:], rest[suffix:]
		e := &names[i]
		e.key, e.tombstone = last, i >= len(names)-int(d.msg.Tombstones)
		if err := d.block(i, &e.id); err != nil {
			return nil, err
		}
		if !isKey(e.key) {
			return nil, fmt.Errorf("%w: %.100q", ErrInvalidKey, e.key)
		}
		if i > 0 && names[i-1].compare(e) >= 0 {
			return nil, fmt.Errorf("%s does not come after %s", e, &names[i-1])
		}
	}
	return names, nil
}

// keyBytes returns how long the keys are together. They may be much longer than the
// page, but no more than those of an honest page can be.
func (d *pageDecoder) keyBytes() (size int, err error) {
	m, rest, last := &d.msg, uint64(len(d.msg.Keys)), uint64(0)
	if n := len(m.Shared); len(m.Suffixes) != n || len(m.Block) != n || uint64(m.Tombstones) > uint64(n) {
		return 0, errColumns
	}
	for i := range m.Shared {
		shared, suffix := uint64(m.Shared[i]), uint64(m.Suffixes[i])
		if shared > last || suffix > rest || shared+suffix > MaxKeyLength {
			return 0, errColumns
		}
		last, rest = shared+suffix, rest-suffix
		size += int(last)
		if size+(i+1)*entrySize > largestPage {
			return 0, fmt.Errorf("its entries take more than %d bytes", largestPage)
		}
	}
	if rest > 0 {
		return 0, errColumns
	}
	return size, nil
}

func (d *pageDecoder) block(i int, id *blockID) error {
	place := uint64(d.msg.Block[i]) * uint64(len(id))
	if place+uint64(len(id)) > uint64(len(d.msg.Blocks)) {
		return errColumns
	}
	copy(id[:], d.msg.Blocks[place:])
	return nil
}

func (d *pageDecoder) leaf(entries []entry) (*treePage, error) {
	m, versions := &d.msg, len(entries)-int(d.msg.Tombstones)
	if len(m.Priorities) != versions || len(m.Sizes) != versions {
		return nil, errColumns
	}
	p := &treePage{entries: entries, totals: totals{entries: uint64(len(entries)), values: uint64(len(d.links))}}
	for i := range entries {
		e := &entries[i]
		if i < versions {
			e.priority = m.Priorities[i]
			if err := d.value(e, m.Sizes[i]); err != nil {
				return nil, err
			}
		}
		p.bytes += uint64(len(e.key) + e.valueSize())
	}
	if len(m.Values)+len(d.links) > 0 {
		return nil, errColumns
	}
	return p, nil
}

// value takes the next value.
func (d *pageDecoder) value(e *entry, size uint64) error {
	switch {
	case size <= maxInlineValue && size <= uint64(len(d.msg.Values)):
		e.value, d.msg.Values = d.msg.Values[:size:size], d.msg.Values[size:]
	case size > maxInlineValue && size <= d.maxValue && len(d.links) > 0:
		e.stored, d.links = &storedValue{d.links[0], int(size)}, d.links[1:]
	default:
		return fmt.Errorf("%s has no value of %d bytes", e, size)
	}
	return nil
}

func (d *pageDecoder) inner(firsts []entry) (*treePage, error) {
	m, n := &d.msg, len(firsts)
	if n == 0 || len(m.Entries) != n || len(m.Bytes) != n || len(m.ValueBlocks) != n || len(d.links) != n {
		return nil, errColumns
	}
	p := &treePage{level: int(m.Level), children: make([]subtree, n)}
	for i := range p.children {
		t := totals{m.Entries[i], m.Bytes[i], m.ValueBlocks[i]}
		if t.entries == 0 || !p.add(t) {
			return nil, fmt.Errorf("a child of %d entries, %d bytes and %d values", t.entries, t.bytes, t.values)
		}
		p.children[i] = subtree{firsts[i], d.links[i], p.level - 1, t}
	}
	return p, nil
}
