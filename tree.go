package crdt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// A versions tree holds the live versions and the open tombstones of a checkpoint, in
// order, in pages: leaves that hold entries, and inner pages that say of each child how
// it begins and how much there is in it.
//
// Where a page ends is said by what is in it, never by what comes before or after, or
// by how it is encoded. So the same entries make the same tree, bit for bit, however it
// came about; two trees share the pages of what they have in common; and a page into
// which nothing has fallen can be taken over unread (treefold.go).

// An entry is a line of a versions tree: a live version, or an open tombstone.
type entry struct {
	key       string
	id        blockID // the block of the version
	tombstone bool
	priority  uint64       // of a version
	value     []byte       // of a version
	stored    *storedValue // likewise, in the place of its value, as long as that has not been read
}

func (e *entry) versionOf() versionOf {
	return versionOf{key: e.key, version: version{id: e.id, priority: e.priority, value: e.value}}
}

// A storedValue is a value that stands in a raw page of its own.
type storedValue struct {
	id   blockID
	size int
}

// compare orders entries: the versions by the bytes of their keys, and then by block;
// then the tombstones, which are asked for by block, by block and then by key.
func (e *entry) compare(o *entry) int {
	switch {
	case e.tombstone != o.tombstone && o.tombstone:
		return -1
	case e.tombstone != o.tombstone:
		return 1
	case e.tombstone:
		return cmp.Or(e.id.compare(o.id), strings.Compare(e.key, o.key))
	}
	return cmp.Or(strings.Compare(e.key, o.key), e.id.compare(o.id))
}

// name returns what orders the entry.
func (e *entry) name() entry { return entry{key: e.key, id: e.id, tombstone: e.tombstone} }

func (e *entry) valueSize() int {
	if e.stored != nil {
		return e.stored.size
	}
	return len(e.value)
}

func (e *entry) String() string {
	kind := "version"
	if e.tombstone {
		kind = "tombstone"
	}
	return fmt.Sprintf("%s (%.100q, %s)", kind, e.key, e.id.Cid())
}

// A treeRoot names a versions tree.
type treeRoot struct {
	id      blockID
	entries uint64
	bytes   uint64 // of keys and values
}

// A subtree is a page, and all below it, as its parent tells of it.
type subtree struct {
	first entry // its key, block and kind alone
	id    blockID
	level int // 0: a leaf
	totals
}

// totals are what there is in a page and below.
type totals struct {
	entries, bytes, values uint64 // values: those in pages of their own
}

// add reports whether the sum is a number.
func (t *totals) add(o totals) bool {
	t.entries += o.entries
	t.bytes += o.bytes
	t.values += o.values
	return t.entries >= o.entries && t.bytes >= o.bytes && t.values >= o.values
}

// Sizes in bytes, before pages are encoded.
const (
	maxInlineValue = 64 << 10      // larger values stand in pages of their own
	entrySize      = 48            // of an entry, beside its key and value
	linkedSize     = 2 * entrySize // likewise, with a link
	largestEntry   = MaxKeyLength + maxInlineValue + entrySize
	largestPage    = 512 << 10
)

// maxLevel is the greatest level that a page of an honest tree can have: but for the last
// ones, inner pages have 4 children at least.
const maxLevel = 16

// pageSizes say where pages end. They must be the same for all replicas.
type pageSizes struct {
	least, middle int
	full          int // when another entry might not fit
}

var honestSizes = pageSizes{64 << 10, 128 << 10, largestPage - largestEntry}

// endAt reports whether a page of a size ends with what has just been added to it: an
// entry, or a child, of this size and hash.
func (s *pageSizes) endAt(size, added int, hash blockID) bool {
	if size < s.least || size > s.full {
		return size > s.full
	}
	return uint64(binary.BigEndian.Uint32(hash[:]))*uint64(s.middle-s.least) < uint64(added)<<32
}

// A treeBuilder makes a versions tree of entries that are added in order. It holds one
// open page of each level, and some that are to be written.
type treeBuilder struct {
	to      pageSink
	sizes   pageSizes
	open    []*pageBuilder // the leaf first
	last    entry          // that was added
	scratch []byte
	ready   []page
	size    int // of these
}

func newTreeBuilder(to pageSink) *treeBuilder { return &treeBuilder{to: to, sizes: honestSizes} }

// add adds an entry, which must come after all others. The builder does not keep its
// value.
func (b *treeBuilder) add(ctx context.Context, e *entry) error {
	if err := b.follow(e); err != nil {
		return err
	}
	if e.stored == nil && len(e.value) > maxInlineValue {
		stored := &storedValue{sha256.Sum256(e.value), len(e.value)}
		if err := b.write(ctx, page{stored.id, bytes.Clone(e.value), true}); err != nil {
			return err
		}
		e = &entry{key: e.key, id: e.id, priority: e.priority, stored: stored}
	}
	leaf := b.level(0)
	if added := leaf.addEntry(e); !b.sizes.endAt(leaf.size, added, b.hash(e)) {
		return nil
	}
	return b.close(ctx, 0)
}

// follow checks that an entry comes after the last one: a tree that is out of order
// would be void for everybody.
func (b *treeBuilder) follow(e *entry) error {
	if b.last.key != "" && b.last.compare(e) >= 0 {
		return fmt.Errorf("crdt: the tree is out of order: %s comes after %s", e, &b.last)
	}
	b.last = e.name()
	return nil
}

func (b *treeBuilder) hash(e *entry) blockID {
	b.scratch = append(append(b.scratch[:0], e.key...), e.id[:]...)
	return sha256.Sum256(b.scratch)
}

func (b *treeBuilder) level(n int) *pageBuilder {
	for len(b.open) <= n {
		b.open = append(b.open, newPageBuilder(len(b.open)))
	}
	return b.open[n]
}

// addChild adds a page to its parent.
func (b *treeBuilder) addChild(ctx context.Context, child *subtree) error {
	parent := b.level(child.level + 1)
	if added := parent.addChild(child); !b.sizes.endAt(parent.size, added, child.id) {
		return nil
	}
	return b.close(ctx, child.level+1)
}

// close ends the open page of a level.
func (b *treeBuilder) close(ctx context.Context, level int) error {
	p, whole, err := b.open[level].finish()
	if err != nil {
		return err
	}
	if err := b.write(ctx, p); err != nil {
		return err
	}
	return b.addChild(ctx, &whole)
}

// aligned reports whether a page of a level would begin with the next entry.
func (b *treeBuilder) aligned(level int) bool {
	for _, p := range b.open[:min(level+1, len(b.open))] {
		if !p.empty() {
			return false
		}
	}
	return true
}

// adopt adds a page of another tree, with all below it. The builder must be aligned, and
// the page must have ended for what is in it, not for want of more.
func (b *treeBuilder) adopt(ctx context.Context, t *subtree) error {
	if err := b.follow(&t.first); err != nil {
		return err
	}
	return b.addChild(ctx, t)
}

// finish writes what is left. The tree of nothing is an empty leaf.
func (b *treeBuilder) finish(ctx context.Context) (treeRoot, error) {
	b.level(0)
	for n := 0; ; n++ {
		p := b.open[n]
		top := n == len(b.open)-1
		if root := p.onlyChild(); top && root != nil {
			return treeRoot{root.id, root.entries, root.bytes}, b.flush(ctx)
		}
		if p.empty() && !top {
			continue
		}
		if err := b.close(ctx, n); err != nil {
			return treeRoot{}, err
		}
	}
}

// writeAtOnce is how many bytes of pages are written together.
const writeAtOnce = 1 << 20

func (b *treeBuilder) write(ctx context.Context, p page) error {
	b.ready = append(b.ready, p)
	if b.size += len(p.data); b.size < writeAtOnce {
		return nil
	}
	return b.flush(ctx)
}

func (b *treeBuilder) flush(ctx context.Context) error {
	if len(b.ready) == 0 {
		return nil
	}
	err := b.to.addPages(ctx, b.ready)
	clear(b.ready)
	b.ready, b.size = b.ready[:0], 0
	return err
}
