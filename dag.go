package crdt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	ds "github.com/ipfs/go-datastore"
)

// A mark says what a replica knows of a block.
type mark struct {
	state markState

	// Of a pending block alone is stored how many of its links are not
	// complete yet, and what makes it a head when the last of them is.
	missing uint64
	tip     HeadValue
	links   []blockID
	covered bool // it is below a complete block, and must not become a head

	changed bool // in this commit: its row is to be written
}

type markState byte

// coveredBit is set in the stored state of a covered block.
const coveredBit = 1 << 7

const (
	unknown  markState = iota // not merged, no row
	complete                  // merged, with its whole history
	pending                   // merged; history is missing
	refused                   // breaks the rules; never merged
	stranded                  // merged, but some history was refused: never a head
)

// merged tells whether the block's delta is in the set.
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
	if m.covered {
		b[0] |= coveredBit
	}
	b = binary.AppendUvarint(b, m.missing)
	b = binary.AppendUvarint(b, m.tip.Height)
	b = binary.AppendUvarint(b, uint64(len(m.tip.DAGName)))
	b = append(b, m.tip.DAGName...)
	for _, id := range m.links {
		b = append(b, id[:]...)
	}
	return b
}

func decodeMark(b []byte) (*mark, error) {
	if len(b) == 0 {
		return &mark{state: complete}, nil
	}
	switch state := markState(b[0] &^ coveredBit); {
	case state == pending:
		m := &mark{state: pending, covered: b[0]&coveredBit != 0}
		return m, m.decodePending(b[1:])
	case len(b) == 1 && (b[0] == byte(refused) || b[0] == byte(stranded)):
		return &mark{state: state}, nil
	}
	return nil, errBadMark
}

func (m *mark) decodePending(b []byte) error {
	var fields [3]uint64 // missing, height, length of the name
	for i := range fields {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return errBadMark
		}
		fields[i], b = v, b[n:]
	}
	if fields[2] > uint64(len(b)) {
		return errBadMark
	}
	m.missing, m.tip = fields[0], HeadValue{Height: fields[1], DAGName: string(b[:fields[2]])}
	for b = b[fields[2]:]; len(b) >= len(blockID{}); b = b[len(blockID{}):] {
		m.links = append(m.links, blockID(b))
	}
	if len(b) > 0 {
		return errBadMark
	}
	return nil
}

// A wanted block is one that a merged block links to and that is not here.
type wanted struct {
	id     blockID
	parent blockID
	height uint64 // it is at most this high
}

// A dagChange is what one commit does to the shape of the DAGs: which blocks
// are merged and which of them are complete, who waits for whom, and the
// frontier. A block is complete when everything below it is merged; the news
// spreads upward from child to parent. A dagChange belongs to the goroutine
// that commits.
type dagChange struct {
	store        *rowStore
	heads, roots *tipsChange
	marks        map[blockID]*mark
	queue        map[blockID]*wanted          // rows to put, or nil to remove
	waits        map[blockID]map[blockID]bool // child, parent: rows to put or remove
	waiting      bool                         // the store may hold such rows
	completed    []blockID
	news         []blockID // settled blocks whose parents have not been told
	wants        []wanted  // newly wanted
}

// maxNews is how many blocks learn of a settled child in one commit. The rest
// follows in the next: a commit must not grow with the history.
const maxNews = 4096

func newDAGChange(store *rowStore, f *frontier, waiting bool) *dagChange {
	heads, roots := f.get()
	return &dagChange{
		store:   store,
		heads:   newTipsChange(heads),
		roots:   newTipsChange(roots),
		marks:   make(map[blockID]*mark),
		waiting: waiting,
	}
}

// mark returns what is known of a block.
func (c *dagChange) mark(ctx context.Context, id blockID) (*mark, error) {
	if m, ok := c.marks[id]; ok {
		return m, nil
	}
	m := &mark{state: unknown}
	if _, ok := c.heads.now[id]; ok {
		m.state = complete
	} else {
		b, found, err := c.store.get(ctx, c.store.keys.block(id))
		if err == nil && found {
			m, err = decodeMark(b)
		}
		if err != nil {
			return nil, fmt.Errorf("crdt: block %s: %w", id.Cid(), err)
		}
	}
	c.marks[id] = m
	return m, nil
}

// assume spares looking up what is known of blocks.
func (c *dagChange) assume(state markState, ids ...blockID) {
	for _, id := range ids {
		c.marks[id] = &mark{state: state}
	}
}

func (c *dagChange) merged(ctx context.Context, id blockID) (bool, error) {
	m, err := c.mark(ctx, id)
	return err == nil && m.state.merged(), err
}

func (c *dagChange) setMark(id blockID, m *mark) {
	m.changed = true
	c.marks[id] = m
}

// height is the height of the next block of a DAG: above every head, and above
// what is still being fetched, so that it wins over that as well.
func (c *dagChange) height(dagName string) uint64 {
	h := max(c.heads.now.maxHeight(dagName), c.roots.now.maxHeight(dagName))
	return min(h+1, maxPriority)
}

// merge puts a block in its place: a head when all below it is complete, a
// root while something is missing.
func (c *dagChange) merge(ctx context.Context, b *block) error {
	m := &mark{tip: HeadValue{Height: b.delta.priority, DAGName: b.delta.dag}, links: b.links, covered: b.covered}
	c.unqueue(b)
	broken := false
	for i, link := range b.links {
		child, err := c.mark(ctx, link)
		if err != nil {
			return err
		}
		switch child.state {
		case unknown:
			c.want(wanted{id: link, parent: b.id, height: b.heightBelow(i)})
			fallthrough
		case pending:
			m.missing++
			c.setWait(link, b.id, true)
		case refused, stranded:
			broken = true
		}
	}
	if !broken && m.missing > 0 {
		return c.hold(ctx, b.id, m)
	}
	return c.settle(ctx, b.id, m, broken)
}

// unqueue removes the queue row of a block that is here now.
func (c *dagChange) unqueue(b *block) {
	if _, ok := c.queue[b.id]; ok || b.queued {
		c.setQueued(b.id, nil)
	}
}

// heightBelow is the greatest height that the block behind a link should have.
func (b *block) heightBelow(link int) uint64 {
	h := b.delta.priority
	if skip := link - (len(b.links) - b.skips); skip >= 0 {
		return h - min(h, 1<<min(minSkip+skip, 63)) // a hostile block has any number of them
	}
	return h - 1
}

func (c *dagChange) want(w wanted) {
	if _, ok := c.queue[w.id]; ok {
		return
	}
	c.setQueued(w.id, &w)
	c.wants = append(c.wants, w)
}

func (c *dagChange) setQueued(id blockID, w *wanted) {
	if c.queue == nil {
		c.queue = make(map[blockID]*wanted)
	}
	c.queue[id] = w
}

// hold keeps a block waiting. It is a root in the place of the roots below it,
// unless a block above is waiting for it.
func (c *dagChange) hold(ctx context.Context, id blockID, m *mark) error {
	m.state = pending
	c.setMark(id, m)
	for _, link := range m.links {
		if below, ok := c.roots.now[link]; ok && below.DAGName == m.tip.DAGName {
			c.roots.remove(link)
		}
	}
	above, err := c.hasPendingParent(ctx, id)
	if err == nil && !above && !m.covered {
		c.roots.add(id, m.tip)
	}
	return err
}

func (c *dagChange) hasPendingParent(ctx context.Context, id blockID) (bool, error) {
	parents, err := c.parents(ctx, id)
	if err != nil {
		return false, err
	}
	for _, p := range parents {
		if m, err := c.mark(ctx, p); err != nil || m.state == pending {
			return err == nil, err
		}
	}
	return false, nil
}

// settle makes a block complete, or stranded when it is broken. A complete
// block is a head in the place of the heads it links to.
func (c *dagChange) settle(ctx context.Context, id blockID, m *mark, broken bool) error {
	c.roots.remove(id)
	c.news = append(c.news, id)
	if broken {
		c.setMark(id, &mark{state: stranded})
		return c.uncover(ctx, m)
	}
	c.setMark(id, &mark{state: complete, tip: m.tip})
	c.completed = append(c.completed, id)
	for _, link := range m.links {
		if below, ok := c.heads.now[link]; ok && below.DAGName == m.tip.DAGName {
			c.heads.remove(link)
		}
	}
	if !m.covered {
		c.heads.add(id, m.tip)
	}
	return nil
}

// uncover makes roots of the pending blocks below one that is stranded. Those
// below a covered block become covered.
func (c *dagChange) uncover(ctx context.Context, above *mark) error {
	for _, link := range above.links {
		child, err := c.mark(ctx, link)
		if err != nil {
			return err
		}
		switch {
		case child.state != pending || child.covered:
		case above.covered && child.tip.DAGName == above.tip.DAGName:
			c.cover(link, child)
		default:
			c.roots.add(link, child.tip)
		}
	}
	return nil
}

// removeTops takes blocks that are gone out of the frontier. Roots among them do not
// become heads when what they miss comes after all.
func (c *dagChange) removeTops(ctx context.Context, ids []blockID) error {
	for _, id := range ids {
		c.heads.remove(id)
		c.roots.remove(id)
		m, err := c.mark(ctx, id)
		if err != nil {
			return err
		}
		if m.state == pending {
			c.cover(id, m)
		}
	}
	return nil
}

// cover keeps a pending block from becoming a head.
func (c *dagChange) cover(id blockID, m *mark) {
	covered := *m
	covered.covered = true
	c.setMark(id, &covered)
}

// refuse marks a block that will never be merged.
func (c *dagChange) refuse(b *block) {
	c.unqueue(b)
	c.setMark(b.id, &mark{state: refused})
	c.news = append(c.news, b.id)
}

// again is for a block that has been merged or refused before. If it was queued
// because its parents had still to be told, they are told now.
func (c *dagChange) again(b *block) {
	c.unqueue(b)
	if state := c.marks[b.id].state; b.queued && state != pending {
		c.news = append(c.news, b.id)
	}
}

// wanted returns what the walker has to get: blocks that the commit found
// missing, and those whose parents could not all be told.
func (c *dagChange) wanted() []wanted {
	return slices.DeleteFunc(c.wants, func(w wanted) bool {
		return c.marks[w.id].state != unknown && !slices.Contains(c.news, w.id)
	})
}

// spread tells the parents of settled blocks, and theirs, until all know or
// the commit is large enough. A block that is left over is queued, as if it
// were missing: when it is merged again, its parents' turn comes.
func (c *dagChange) spread(ctx context.Context) error {
	if len(c.news) == 0 {
		return nil
	}
	by := c.news[0]
	for told := 0; len(c.news) > 0 && told < maxNews; {
		id := c.news[0]
		parents, err := c.parents(ctx, id)
		if err != nil {
			return err
		}
		now := parents[:min(len(parents), maxNews-told)]
		for _, p := range now {
			if err := c.tell(ctx, p, id); err != nil {
				return err
			}
		}
		if told += len(now); len(now) == len(parents) {
			c.news = c.news[1:]
		}
	}
	for _, id := range c.news {
		w := wanted{id: id, parent: by, height: maxPriority}
		c.setQueued(id, &w)
		c.wants = append(c.wants, w)
	}
	return nil
}

// tell lets a parent know that a child is settled.
func (c *dagChange) tell(ctx context.Context, parent, child blockID) error {
	c.setWait(child, parent, false)
	p, err := c.mark(ctx, parent)
	if err != nil || p.state != pending {
		return err
	}
	if c.marks[child].state != complete {
		return c.settle(ctx, parent, p, true)
	}
	left := *p
	if left.missing--; left.missing == 0 {
		return c.settle(ctx, parent, &left, false)
	}
	c.setMark(parent, &left)
	return nil
}

// parents returns the merged blocks that wait for a block.
func (c *dagChange) parents(ctx context.Context, child blockID) ([]blockID, error) {
	var ids []blockID
	if c.waiting {
		for e, err := range c.store.rowsOf(ctx, c.store.keys.waitingOn(child), 1, true) {
			if err != nil {
				return nil, err
			}
			_, id, ok := splitID(e.Key)
			if _, changed := c.waits[child][id]; ok && !changed {
				ids = append(ids, id)
			}
		}
	}
	for id, put := range c.waits[child] {
		if put {
			ids = append(ids, id)
		}
	}
	return sortIDs(ids), nil
}

func (c *dagChange) setWait(child, parent blockID, put bool) {
	if c.waits == nil {
		c.waits = make(map[blockID]map[blockID]bool)
	}
	if c.waits[child] == nil {
		c.waits[child] = make(map[blockID]bool)
	}
	c.waits[child][parent] = put
}

// rows returns what the commit writes.
func (c *dagChange) rows() []row {
	keys := c.store.keys
	rows := c.heads.rows(keys.head, headRow)
	rows = append(rows, c.roots.rows(keys.root, rootRow)...)
	for id, m := range c.marks {
		if m.changed {
			rows = append(rows, row{key: keys.block(id), value: m.encode()})
		}
	}
	for child, parents := range c.waits {
		for parent, put := range parents {
			rows = append(rows, presence(keys.wait(child, parent), put))
		}
	}
	for id, w := range c.queue {
		r := presence(keys.queued(id), w != nil)
		if w != nil {
			r.value = binary.AppendUvarint(nil, w.height)
		}
		rows = append(rows, r)
	}
	return rows
}

// presence is a row that says something by being there.
func presence(key ds.Key, put bool) row { return row{key: key, value: []byte{}, remove: !put} }
