package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	ds "github.com/ipfs/go-datastore"
)

// A wanted block is one that a merged block links to and that is not here.
type wanted struct {
	id     blockID
	parent blockID
	height uint64 // it is at most this high
	v0     bool   // it is linked by a CID of version 0
}

// anyHeight is the height of a wanted block of which nothing is known.
const anyHeight = math.MaxUint64

// A dagChange is what one commit does to the shape of the DAGs: which blocks
// are merged and which of them are complete, who waits for whom, and the
// frontier. A child is what a block links to, and so the older of the two. A
// dagChange belongs to the goroutine that commits.
//
// # What holds after each commit
//
// A child is settled when it is complete, refused or stranded: its mark will not
// change, unless it is purged. Then its parents are told, each of them once.
//
//	waiters(c) = merged blocks that link to c, did not know it settled when they
//	             came, and have not been told since
//	missing(p) = |{c : p is in waiters(c)}|, of a pending p
//	complete   = merged blocks with missing = 0, whose children are all complete
//	stranded   = merged blocks that found, or were told of, a refused or stranded child
//	pending    = the other merged blocks
//	heads      = complete blocks to which no complete one of their DAG links
//	pendingHeads = pending blocks for which none of their DAG waits, and perhaps a few more
//	untold     = settled blocks with waiters
//	queue      = untold, unknown blocks with waiters, and those merged in parts
//
// Some blocks are neither, though nothing is above them (mark.neverHead), and a purge
// hides blocks from others while it takes them away (purge.go).
//
// # A cascade
//
//	  d           d is pending, missing 2: a pending head
//	 / \
//	b   c         b and c are pending, missing 1 each
//	 \ /
//	  a           a is unknown, in the queue, waiters(a) = {b, c}
//
// Now a is merged. It links to nothing, so it is complete, which is news for b and c.
// When these have been told they are complete, and d is told twice. Then d is complete
// as well, and a head in the place of a pending head. Had a been refused, all three would
// be stranded.
//
// One commit looks at so many parents and links only (looksLeft). If there is room for b
// alone, a is untold: it is in the queue again, for a restart, and the merger goes on
// with it in its next commit. To do all in one commit would make it grow with the
// history, and whoever can send a block could stop all writes for minutes.
type dagChange struct {
	store               *rowStore
	heads, pendingHeads overlay[tips, HeadValue]
	marks               map[blockID]*mark     // that were looked at, as they are now
	links               map[blockID][]blockID // rows to put, or nil to remove
	queue               map[blockID]*wanted   // rows to put, or nil to remove
	waits               map[blockID]*waiters  // by the child: those that were looked at
	completed           []blockID             // that were not complete before
	purge               *purge                // whose blocks count as not merged; may be nil
	purged              []blockID             // to be removed from the DAG service, which a row says; none: no more; nil: as before
	news                []blockID             // settled blocks whose parents have not been told yet
	untold              []blockID             // those of them that are left to later commits
	takenUp             int                   // how many untold blocks of earlier commits it has looked at
	looksLeft           int                   // parents and links that may be looked at yet
	wants               []wanted              // of queue, when they were put there, but for hidden ones
	begunAnew           []string              // DAGs of which there is a new summary, or a checkpoint that is held from now on
	checkpoints         *checkpointsChange    // of the commit

	summed        map[blockID]*string // by blocks that are not here: rows to put, with the DAG's name, or nil to remove
	mayHaveSummed bool                // the store may hold such rows
}

// maxSpread is how many parents of settled blocks, and links of theirs, are
// looked at in one commit. The rest follows in the next: a commit must not grow
// with the history.
const maxSpread = 8192

func newDAGChange(store *rowStore, f *frontier, known *checkpointsChange, looks int) *dagChange {
	heads, pendingHeads := f.tips()
	return &dagChange{
		store:        store,
		heads:        overlayOn(heads),
		pendingHeads: overlayOn(pendingHeads),
		marks:        make(map[blockID]*mark),
		waits:        make(map[blockID]*waiters),
		checkpoints:  known,
		looksLeft:    looks,
	}
}

// hides reports whether a block is neither fetched nor merged, as it is being purged, or
// a checkpoint is being taken or purged that covers it. Its queue row stays.
func (c *dagChange) hides(ctx context.Context, id blockID) (bool, error) {
	if c.purge.hides(id) {
		return true, nil
	}
	return c.store.hiddenBy(ctx, c.checkpoints.now, id)
}

// mark returns what is known of a block.
func (c *dagChange) mark(ctx context.Context, id blockID) (*mark, error) {
	if c.purge.hides(id) {
		return &mark{state: unknown}, nil
	}
	return c.stored(ctx, id)
}

// stored does so for a block that is to be told something, though it is being
// purged: the purge may fail.
func (c *dagChange) stored(ctx context.Context, id blockID) (*mark, error) {
	if m, ok := c.marks[id]; ok {
		return m, nil
	}
	m := &mark{state: complete}
	if _, ok := c.heads.now[id]; !ok {
		var err error
		if m, err = c.store.mark(ctx, id); err != nil {
			return nil, err
		}
	}
	c.marks[id] = m
	return m, nil
}

// assume spares looking up what is known of blocks. Nothing waits for an unknown one.
func (c *dagChange) assume(state markState, ids ...blockID) {
	for _, id := range ids {
		c.marks[id] = &mark{state: state}
		if state == unknown {
			c.waits[id] = &waiters{}
		}
	}
}

func (c *dagChange) merged(ctx context.Context, id blockID) (bool, error) {
	m, err := c.mark(ctx, id)
	return err == nil && m.state.merged(), err
}

func (c *dagChange) setMark(id blockID, m *mark) {
	if len(m.links) > fewLinks {
		c.setLinks(id, m.links)
		m.links = nil
	}
	m.changed = true
	c.marks[id] = m
}

func (c *dagChange) setLinks(id blockID, links []blockID) {
	setIn(&c.links, id, links)
}

// takeLinks returns the links of a pending block, which is pending no more or
// gets a new mark.
func (c *dagChange) takeLinks(ctx context.Context, id blockID, m *mark) ([]blockID, error) {
	if len(m.links) > 0 {
		return m.links, nil
	}
	links, ok := c.links[id]
	if !ok {
		b, err := c.store.Get(ctx, c.store.keys.links(id))
		if err != nil {
			return nil, fmt.Errorf("crdt: the links of block %s: %w", id.Cid(), err)
		}
		if links, ok = decodeIDs(b); !ok {
			return nil, fmt.Errorf("crdt: the links of block %s: %w", id.Cid(), errBadMark)
		}
	}
	c.setLinks(id, nil)
	return links, nil
}

// height is the height of the next block of a DAG: above every head, and above
// what is still being fetched or taken, so that it wins over that as well.
func (c *dagChange) height(dagName string) uint64 {
	heads, pendingHeads := c.purge.shown(c.heads.now), c.purge.shown(c.pendingHeads.now)
	return above(max(heads.maxHeight(dagName), pendingHeads.maxHeight(dagName), c.checkpoints.now.takingHeight()))
}

// merge puts a block in its place: a head when all below it is complete, a
// pending head while something is missing.
func (c *dagChange) merge(ctx context.Context, b *block) error {
	if err := c.takeSummed(ctx, b); err != nil {
		return err
	}
	if err := c.unqueue(ctx, b); err != nil {
		return err
	}
	m := &mark{state: pending, tip: b.tip(), neverHead: b.neverHead}
	broken, err := c.await(ctx, b, m)
	if err != nil {
		return err
	}
	if err := c.sumUp(ctx, b); err != nil {
		return err
	}
	switch {
	case broken:
		c.strand(b.id)
		return c.uncover(ctx, m, b.links)
	case m.missing > 0:
		return c.makePending(ctx, b.id, m, b.links)
	}
	c.complete(b.id, m, b.links)
	return nil
}

// await makes a block wait for those that it links to, as far as they are not complete.
// It reports whether one of them never will be.
func (c *dagChange) await(ctx context.Context, b *block, m *mark) (broken bool, err error) {
	for i, link := range b.links {
		child, err := c.mark(ctx, link)
		if err != nil {
			return false, err
		}
		switch child.state {
		case refused, stranded:
			broken = true
		case unknown:
			if err := c.want(ctx, wanted{id: link, parent: b.id, height: b.heightBelow(i), v0: b.v0[link]}, m.tip.DAGName); err != nil {
				return false, err
			}
			fallthrough
		case pending:
			w, err := c.waiters(ctx, link)
			if err != nil {
				return false, err
			}
			w.add(b.id)
			m.missing++
		}
	}
	return broken, nil
}

// unqueue removes the queue row of a block that is here now. There is one if others
// wait for it, and perhaps if it was merged in part.
func (c *dagChange) unqueue(ctx context.Context, b *block) error {
	w, err := c.waiters(ctx, b.id)
	if err == nil && (b.queued || !w.empty()) {
		c.setQueued(b.id, nil)
	}
	return err
}

// heightBelow is the greatest height that the block behind a link should have.
func (b *block) heightBelow(link int) uint64 {
	h := b.delta.priority
	if skip := link - (len(b.links) - b.skips); skip >= 0 {
		return h - min(h, 1<<min(minSkip+skip, 63)) // a hostile block has any number of them
	}
	return h - min(h, 1)
}

// want queues a missing block below one of a DAG. If it is hidden or withheld, it is
// fetched once it is that no more.
func (c *dagChange) want(ctx context.Context, w wanted, dagName string) error {
	if _, ok := c.queue[w.id]; ok {
		return nil
	}
	c.setQueued(w.id, &w)
	hidden, err := c.hides(ctx, w.id)
	if err == nil && !hidden && !c.checkpoints.now.withhold(w, dagName) {
		c.wants = append(c.wants, w)
	}
	return err
}

func (c *dagChange) setQueued(id blockID, w *wanted) {
	setIn(&c.queue, id, w)
}

// makePending has a block wait. It is a pending head in the place of the pending heads below it,
// unless a block above is waiting for it, of the same DAG in both cases.
func (c *dagChange) makePending(ctx context.Context, id blockID, m *mark, links []blockID) error {
	for _, link := range links {
		if below, ok := c.pendingHeads.now[link]; ok && below.DAGName == m.tip.DAGName {
			c.pendingHeads.remove(link)
		}
	}
	m.links = links
	c.setMark(id, m)
	return c.addPendingHead(ctx, id, m)
}

// addPendingHead makes a pending block a pending head, unless one of its DAG waits for
// it. It does not look at those beyond a few: one too many does no harm.
func (c *dagChange) addPendingHead(ctx context.Context, id blockID, m *mark) error {
	if m.neverHead {
		return nil
	}
	w, err := c.waiters(ctx, id)
	if err != nil {
		return err
	}
	for _, p := range w.few {
		above, err := c.mark(ctx, p)
		if err != nil || above.state == pending && above.tip.DAGName == m.tip.DAGName {
			return err
		}
	}
	c.pendingHeads.add(id, m.tip)
	return nil
}

// complete makes a block complete, and a head in the place of the heads it links
// to. One that is being purged will not be there in their place: only those go that
// are purged with it. If the purge is cut off, the others stay heads until it is called
// again, or until something is written on all of them, which does no harm.
func (c *dagChange) complete(id blockID, m *mark, links []blockID) {
	c.settle(id, &mark{state: complete, tip: m.tip})
	c.completed = append(c.completed, id)
	for _, link := range links {
		if below, ok := c.heads.now[link]; ok && below.DAGName == m.tip.DAGName && c.purge.hides(link) == c.purge.hides(id) {
			c.heads.remove(link)
		}
	}
	if !m.neverHead {
		c.heads.add(id, m.tip)
	}
}

// strand is for a block that will never be complete. Call uncover as well.
func (c *dagChange) strand(id blockID) { c.settle(id, &mark{state: stranded}) }

// settle gives a block a mark that will not change, of which its parents learn.
func (c *dagChange) settle(id blockID, m *mark) {
	c.pendingHeads.remove(id)
	c.setMark(id, m)
	c.news = append(c.news, id)
}

// uncover makes pending heads of pending blocks that a stranded one links to. Those
// below one that must not become a head must not either.
func (c *dagChange) uncover(ctx context.Context, above *mark, links []blockID) error {
	for _, link := range links {
		child, err := c.stored(ctx, link)
		if err != nil {
			return err
		}
		switch {
		case child.state != pending || child.neverHead:
		case above.neverHead && child.tip.DAGName == above.tip.DAGName:
			c.keepFromHeads(link, child)
		default:
			c.pendingHeads.add(link, child.tip)
		}
	}
	return nil
}

// keepFromHeads keeps a pending block from becoming a head.
func (c *dagChange) keepFromHeads(id blockID, m *mark) {
	kept := *m
	kept.neverHead = true
	c.setMark(id, &kept)
}

// takeFromHeads is for a block that was taken for a head, or for one to be.
func (c *dagChange) takeFromHeads(ctx context.Context, id blockID) error {
	c.heads.remove(id)
	if !c.pendingHeads.now.has(id) {
		return nil
	}
	c.pendingHeads.remove(id)
	m, err := c.stored(ctx, id)
	if err == nil {
		c.keepFromHeads(id, m)
	}
	return err
}

// refuse marks a block that will never be merged.
func (c *dagChange) refuse(ctx context.Context, b *block) error {
	c.settle(b.id, &mark{state: refused})
	return c.unqueue(ctx, b)
}

// takeUp goes on with settled blocks that earlier commits have left, as far as there is
// room.
func (c *dagChange) takeUp(ctx context.Context, untold []blockID) error {
	for _, id := range untold {
		if c.looksLeft <= 0 {
			break
		}
		c.takenUp++
		m, err := c.stored(ctx, id)
		if err != nil {
			return err
		}
		if m.state == unknown {
			continue // it was purged, and its row is that of a missing block, if there is one
		}
		c.setQueued(id, nil)
		if m.state != pending { // or it has been purged and merged again
			c.news = append(c.news, id)
		}
		if err := c.spread(ctx); err != nil {
			return err
		}
		c.looksLeft--
	}
	return nil
}

// spread tells the parents of settled blocks, and theirs, until all know or the
// commit is large enough.
func (c *dagChange) spread(ctx context.Context) error {
	for len(c.news) > 0 { // it grows meanwhile
		id := c.news[0]
		all, err := c.tellParents(ctx, id)
		if err != nil {
			return err
		}
		if !all {
			c.leave(id)
		}
		c.news = c.news[1:]
	}
	return nil
}

// leave leaves a settled block to later commits, and in the queue, for the case that
// there is a restart before.
func (c *dagChange) leave(id blockID) {
	c.setQueued(id, &wanted{id: id, height: anyHeight})
	if !c.purge.hides(id) { // or else it is looked at once the purge has ended
		c.untold = append(c.untold, id)
	}
}

// tellParents tells the parents of a settled block. It returns false when there
// is no room for all of them, or while it counts as not merged.
func (c *dagChange) tellParents(ctx context.Context, id blockID) (all bool, err error) {
	if c.purge.hides(id) {
		return false, nil
	}
	parents, err := c.parents(ctx, id, max(c.looksLeft, 0))
	if err != nil {
		return false, err
	}
	for _, p := range parents {
		if told, err := c.tell(ctx, p, id); !told || err != nil {
			return false, err
		}
	}
	c.waits[id].noMore()
	return true, nil
}

// tell lets a parent know that a child is settled, if there is room for it.
func (c *dagChange) tell(ctx context.Context, parent, child blockID) (told bool, err error) {
	if c.looksLeft <= 0 {
		return false, nil
	}
	p, err := c.stored(ctx, parent)
	if err != nil {
		return false, err
	}
	c.looksLeft -= 1 + len(p.links)
	told = true
	switch {
	case p.state != pending:
	case c.marks[child].state == complete:
		err = c.oneLess(ctx, parent, *p)
	default:
		told, err = c.breakOff(ctx, parent, *p)
	}
	if told {
		c.waits[child].remove(parent)
	}
	return told, err
}

// oneLess counts down what a pending block misses.
func (c *dagChange) oneLess(ctx context.Context, id blockID, m mark) error {
	if m.missing--; m.missing > 0 {
		c.setMark(id, &m)
		return nil
	}
	links, err := c.takeLinks(ctx, id, &m)
	if err == nil {
		c.looksLeft -= len(links)
		c.complete(id, &m, links)
	}
	return err
}

// breakOff strands a pending block, once all below it is uncovered. As long as
// there is no room for that, it returns false, and the block is pending with the
// links that are left.
func (c *dagChange) breakOff(ctx context.Context, id blockID, m mark) (done bool, err error) {
	links, err := c.takeLinks(ctx, id, &m)
	if err != nil {
		return false, err
	}
	now := links[:min(len(links), max(c.looksLeft, 1))]
	c.looksLeft -= len(now)
	if err := c.uncover(ctx, &m, now); err != nil {
		return false, err
	}
	if m.links = links[len(now):]; len(m.links) > 0 {
		c.setMark(id, &m)
		return false, nil
	}
	c.strand(id)
	return true, nil
}

// rows returns what the commit writes.
func (c *dagChange) rows() []row {
	keys := c.store.keys
	rows := c.heads.rows(keys.head, headRow)
	rows = append(rows, c.pendingHeads.rows(keys.pendingHead, pendingHeadRow)...)
	for id, m := range c.marks {
		switch {
		case !m.changed:
		case m.state == unknown:
			rows = append(rows, row{key: keys.block(id), remove: true})
		default:
			rows = append(rows, row{key: keys.block(id), value: m.encode()})
		}
	}
	if c.purged != nil {
		rows = append(rows, row{key: keys.purged, value: encodeIDs(c.purged), remove: len(c.purged) == 0})
	}
	for id, links := range c.links {
		rows = append(rows, row{key: keys.links(id), value: encodeIDs(links), remove: len(links) == 0})
	}
	for child, w := range c.waits {
		rows = w.appendRows(rows, keys, child)
	}
	for id, w := range c.queue {
		r := presence(keys.queued(id), w != nil)
		if w != nil {
			r.value = w.encode()
		}
		rows = append(rows, r)
	}
	return c.appendSummedRows(rows)
}

// encode writes the value of a queue row.
func (w *wanted) encode() []byte {
	b := binary.AppendUvarint(nil, w.height)
	if w.v0 {
		b = append(b, 0)
	}
	return b
}

// decodeWanted reads it. Whatever it holds, the block is missing.
func decodeWanted(id blockID, b []byte) wanted {
	height, n := binary.Uvarint(b)
	return wanted{id: id, height: height, v0: len(b) > max(n, 0)}
}

// presence is a row that says something by being there.
func presence(key ds.Key, put bool) row { return row{key: key, value: []byte{}, remove: !put} }
