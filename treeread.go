package crdt

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// How many pages and values are read and decoded ahead of what is needed. A reader takes
// some 10 MiB as a rule, and less than 136 MiB whatever peers send: 28 pages of 1 MiB that
// take 3 MiB as they are decoded, 10 values of Options.MaxBlockSize, and an inner page on
// each of 16 levels, of 2.5 MiB.
const (
	pagesAhead  = 16
	valuesAhead = 8
)

// treeEntries yields the entries of a tree but for some at the beginning, the pages of
// which are not read. An entry may be kept, and keeps the whole page in memory.
func (s *blockStore) treeEntries(ctx context.Context, root treeRoot, skip uint64) iter.Seq2[*entry, error] {
	passOver := func(_ *treeCursor, t *subtree) bool {
		if t.entries > skip {
			return false
		}
		skip -= t.entries
		return true
	}
	return func(yield func(*entry, error) bool) {
		for some, err := range s.readTree(ctx, root, passOver) {
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range some {
				if skip > 0 {
					skip--
				} else if !yield(&some[i], nil) {
					return
				}
			}
		}
	}
}

// A versionCursor goes through the versions of a tree. Call stop at the end.
type versionCursor struct {
	at   *entry // nil: there are no more, or err says why they cannot be read
	err  error
	next func() (*entry, error, bool)
	stop func()
}

// openVersions returns a cursor at the first version of a tree after some entries.
func (s *blockStore) openVersions(ctx context.Context, root treeRoot, skip uint64) *versionCursor {
	c := &versionCursor{}
	c.next, c.stop = iter.Pull2(s.treeEntries(ctx, root, skip))
	c.advance()
	return c
}

func (c *versionCursor) advance() {
	e, err, more := c.next()
	c.at, c.err = nil, err
	if more && err == nil && !e.tombstone {
		c.at = e
	}
}

// openTombstones yields the tombstones of a tree.
func (s *blockStore) openTombstones(ctx context.Context, root treeRoot) iter.Seq2[*entry, error] {
	versionsAlone := func(c *treeCursor, _ *subtree) bool {
		next := c.following()
		return next != nil && !next.tombstone
	}
	return func(yield func(*entry, error) bool) {
		for some, err := range s.readTree(ctx, root, versionsAlone) {
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range some {
				if some[i].tombstone && !yield(&some[i], nil) {
					return
				}
			}
		}
	}
}

// treePages yields the names of all pages of a tree, each after those below it. Of the
// leaves it reads those alone that link to values.
func (s *blockStore) treePages(ctx context.Context, root treeRoot) iter.Seq2[pageName, error] {
	return func(yield func(pageName, error) bool) {
		r := s.readPages(ctx)
		defer r.end()
		c, err := r.openTree(root)
		switch {
		case err != nil:
			yield(pageName{}, err)
		case c.atEnd():
			yield(pageName{id: root.id}, nil)
		default:
			r.pagesBelow(c.subtree(), yield)
		}
	}
}

func (r *pageReader) pagesBelow(t *subtree, yield func(pageName, error) bool) bool {
	if t.level > 0 || t.values > 0 {
		p, err := r.treePage(t)
		if err != nil {
			return yield(pageName{}, err) && false
		}
		for i := range p.children {
			if !r.pagesBelow(&p.children[i], yield) {
				return false
			}
		}
		for i := range p.entries {
			if v := p.entries[i].stored; v != nil && !yield(pageName{v.id, true}, nil) {
				return false
			}
		}
	}
	return yield(pageName{id: t.id}, nil)
}

// readTree yields the entries of a tree, some at a time, and checks them but for their
// blocks. It begins with the first leaf that passOver does not pass over.
func (s *blockStore) readTree(ctx context.Context, root treeRoot, passOver func(*treeCursor, *subtree) bool) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		r := s.readPages(ctx)
		defer r.end()
		c, err := r.openTree(root)
		if err == nil {
			err = c.pass(passOver)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		leaves := ahead(r, pagesAhead, c.leaves(), r.treePage)
		for some, err := range ahead(r, valuesAhead, r.portions(leaves), r.loadValue) {
			if !yield(some, err) {
				return
			}
		}
	}
}

// portions yields the entries of leaves. Only the last one of a portion may be without its
// value.
func (r *pageReader) portions(leaves iter.Seq2[*treePage, error]) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		var last *entry
		for p, err := range leaves {
			if err == nil && last != nil && last.compare(p.first()) >= 0 {
				err = fmt.Errorf("%w: %s does not come after %s", errBadSnapshot, p.first(), last)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			last = &p.entries[len(p.entries)-1]
			for rest := p.entries; len(rest) > 0; {
				n := 1 + slices.IndexFunc(rest, func(e entry) bool { return e.stored != nil })
				if n == 0 {
					n = len(rest)
				}
				if !yield(rest[:n:n], nil) {
					return
				}
				rest = rest[n:]
			}
		}
	}
}

// loadValue reads the value of the last entry.
func (r *pageReader) loadValue(some []entry) ([]entry, error) {
	e := &some[len(some)-1]
	if e.stored == nil {
		return some, nil
	}
	value, err := r.get(pageName{e.stored.id, true})
	if err == nil && len(value) != e.stored.size {
		err = fmt.Errorf("%w: the value of %s has %d bytes, not %d", errBadSnapshot, e, len(value), e.stored.size)
	}
	if err != nil {
		return nil, err
	}
	e.value, e.stored = value, nil
	return some, nil
}

// treePage reads a page that its parent tells of.
func (r *pageReader) treePage(t *subtree) (*treePage, error) {
	data, err := r.get(pageName{id: t.id})
	if err != nil {
		return nil, err
	}
	p, err := decodeTreePage(data, r.store.maxSize)
	if err != nil {
		return nil, fmt.Errorf("page %s: %w", t.id.Cid(), err)
	}
	first := p.first()
	if first == nil || first.compare(&t.first) != 0 || p.level != t.level || p.totals != t.totals {
		return nil, fmt.Errorf("%w: page %s is not what its parent says", errBadSnapshot, t.id.Cid())
	}
	return p, nil
}

// A treeCursor goes through a tree. It is at a subtree, which can be passed over or
// descended into, at an entry, or at the end.
type treeCursor struct {
	pages *pageReader
	above [][]subtree // what is left of the inner pages on the way down
	leaf  []entry     // what is left of the leaf
}

// openTree returns a cursor at the root.
func (r *pageReader) openTree(root treeRoot) (*treeCursor, error) {
	data, err := r.get(pageName{id: root.id})
	if err != nil {
		return nil, err
	}
	p, err := decodeTreePage(data, r.store.maxSize)
	if err != nil {
		return nil, fmt.Errorf("page %s: %w", root.id.Cid(), err)
	}
	if p.totals.entries != root.entries || p.bytes != root.bytes {
		return nil, fmt.Errorf("%w: tree %s has %d entries and %d bytes, not %d and %d", errBadSnapshot, root.id.Cid(), p.totals.entries, p.bytes, root.entries, root.bytes)
	}
	c := &treeCursor{pages: r}
	if first := p.first(); first != nil {
		c.above = [][]subtree{{{first.name(), root.id, p.level, p.totals}}}
	}
	return c, nil
}

func (c *treeCursor) atEnd() bool { return len(c.leaf)+len(c.above) == 0 }

// subtree returns the subtree where the cursor is, if it is at one.
func (c *treeCursor) subtree() *subtree {
	if len(c.leaf) > 0 || c.atEnd() {
		return nil
	}
	return &c.above[len(c.above)-1][0]
}

// first returns the entry where the cursor is, or the first one of the subtree.
func (c *treeCursor) first() *entry {
	switch {
	case c.atEnd():
		return nil
	case len(c.leaf) > 0:
		return &c.leaf[0]
	}
	return &c.subtree().first
}

// following returns the first entry after the subtree where the cursor is.
func (c *treeCursor) following() *entry {
	for i := len(c.above) - 1; i >= 0; i-- {
		left := c.above[i]
		if i == len(c.above)-1 {
			left = left[1:]
		}
		if len(left) > 0 {
			return &left[0].first
		}
	}
	return nil
}

// next passes over what the cursor is at.
func (c *treeCursor) next() {
	if len(c.leaf) > 0 {
		c.leaf = c.leaf[1:]
	} else {
		c.take()
	}
	for len(c.leaf) == 0 && len(c.above) > 0 && len(c.above[len(c.above)-1]) == 0 {
		c.above = c.above[:len(c.above)-1]
	}
}

// take removes the subtree where the cursor is from what is left.
func (c *treeCursor) take() *subtree {
	top := &c.above[len(c.above)-1]
	t := &(*top)[0]
	*top = (*top)[1:]
	return t
}

func (c *treeCursor) descend() error {
	p, err := c.pages.treePage(c.subtree())
	if err != nil {
		return err
	}
	if c.take(); p.level == 0 {
		c.leaf = p.entries
	} else {
		c.above = append(c.above, p.children)
	}
	return nil
}

// pass passes over subtrees as it is told to, and descends into the others, down to a
// leaf.
func (c *treeCursor) pass(over func(*treeCursor, *subtree) bool) error {
	for t := c.subtree(); t != nil; t = c.subtree() {
		switch {
		case over(c, t):
			c.next()
		case t.level == 0:
			return nil
		default:
			if err := c.descend(); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaves yields all leaves from where the cursor is.
func (c *treeCursor) leaves() iter.Seq2[*subtree, error] {
	return func(yield func(*subtree, error) bool) {
		for t := c.subtree(); t != nil; t = c.subtree() {
			if t.level == 0 {
				if c.next(); !yield(t, nil) {
					return
				}
			} else if err := c.descend(); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}
