package crdt

import (
	"context"
	"iter"
)

// A treeChange is what the blocks above the bases do to a version.
type treeChange struct {
	entry
	removed bool // a tombstone removes it, whoever has it
}

// A foldBase is an older tree that a new one is made from.
type foldBase struct {
	root   treeRoot
	covers func(context.Context, blockID) (bool, error) // whether the effect of a block is in the tree
}

// merge adds the versions of bases, but for the dead ones, and those of changes. A version
// of a base stays only if every base that covers its block has it, and no change removes
// it. Changes are sorted, with at most one of each version, and none adds a version whose
// block is covered. Tombstones of the bases are left out.
//
// A page that is the same in all bases, and into which no change falls, is taken over
// unread, with all below it.
func (b *treeBuilder) merge(ctx context.Context, from *blockStore, bases []foldBase, changes iter.Seq2[*treeChange, error]) error {
	pages := from.readPages(ctx)
	defer pages.end()
	m := treeMerge{to: b}
	for _, base := range bases {
		c, err := pages.openTree(base.root)
		if err != nil {
			return err
		}
		m.bases = append(m.bases, mergedBase{c, base.covers})
	}
	for c, err := range changes {
		if err != nil {
			return err
		}
		if err := m.change(ctx, c); err != nil {
			return err
		}
	}
	return m.advance(ctx, nil)
}

// A treeMerge goes through bases side by side.
type treeMerge struct {
	to    *treeBuilder
	bases []mergedBase
}

type mergedBase struct {
	*treeCursor
	covers func(context.Context, blockID) (bool, error)
}

// version returns the version that comes next in a base, or with which the next subtree
// begins.
func (b *mergedBase) version() *entry {
	if e := b.first(); e != nil && !e.tombstone {
		return e
	}
	return nil
}

// at reports whether a base is at an entry, or at a subtree that begins with it.
func (b *mergedBase) at(e *entry) bool {
	v := b.version()
	return v != nil && v.compare(e) == 0
}

func (m *treeMerge) change(ctx context.Context, c *treeChange) error {
	if err := m.advance(ctx, &c.entry); err != nil {
		return err
	}
	for i := range m.bases {
		if b := &m.bases[i]; b.at(&c.entry) {
			b.next()
		}
	}
	if c.removed {
		return nil
	}
	return m.to.add(ctx, &c.entry)
}

// advance adds what the bases have before a version, or all that is left. Afterwards none
// is at a subtree that begins with that version.
func (m *treeMerge) advance(ctx context.Context, until *entry) error {
	for {
		e := m.least()
		if e == nil || until != nil && e.compare(until) > 0 {
			return nil
		}
		if t := m.untouched(until); t != nil {
			if err := m.adopt(ctx, t); err != nil {
				return err
			}
			continue
		}
		if descended, err := m.descend(e); err != nil {
			return err
		} else if descended {
			continue
		}
		if until != nil && e.compare(until) == 0 {
			return nil
		}
		if err := m.add(ctx, e); err != nil {
			return err
		}
	}
}

// least returns the least version that comes next in any base.
func (m *treeMerge) least() (least *entry) {
	for i := range m.bases {
		if v := m.bases[i].version(); v != nil && (least == nil || v.compare(least) < 0) {
			least = v
		}
	}
	return least
}

// untouched returns the subtree that comes next in all bases, if it can be taken over.
// It must be followed by a version: then its last page on each level has ended for what is
// in it. What changes before that version may fall into the subtree.
func (m *treeMerge) untouched(until *entry) *subtree {
	t := m.bases[0].subtree()
	if t == nil || !m.to.aligned(t.level) {
		return nil
	}
	for i := range m.bases[1:] {
		if o := m.bases[1+i].subtree(); o == nil || o.id != t.id {
			return nil
		}
	}
	next := m.bases[0].following()
	if next == nil || next.tombstone || until != nil && next.compare(until) > 0 {
		return nil
	}
	return t
}

func (m *treeMerge) adopt(ctx context.Context, t *subtree) error {
	for i := range m.bases {
		m.bases[i].next()
	}
	return m.to.adopt(ctx, t)
}

// descend goes down into all subtrees that begin with an entry. It reports whether there
// was any. Those of trees of different heights are on different levels at first; they meet
// on that of the entries, and again where the next pages begin.
func (m *treeMerge) descend(e *entry) (descended bool, err error) {
	for i := range m.bases {
		b := &m.bases[i]
		if b.subtree() == nil || !b.at(e) {
			continue
		}
		if err := b.treeCursor.descend(); err != nil {
			return false, err
		}
		descended = true
	}
	return descended, nil
}

// add adds a version that some bases are at, unless another knows that it is dead.
func (m *treeMerge) add(ctx context.Context, e *entry) error {
	dead := false
	for i := range m.bases {
		b := &m.bases[i]
		if b.at(e) {
			b.next()
			continue
		}
		covered, err := b.covers(ctx, e.id)
		if err != nil {
			return err
		}
		dead = dead || covered
	}
	if dead {
		return nil
	}
	return m.to.add(ctx, e)
}
