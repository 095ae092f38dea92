package crdt

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-ds-crdt/pb"
)

// A pendingWrite is a Put, Delete or Batch that waits to be committed.
type pendingWrite struct {
	changes *changes
	taken   bool          // guarded by writer.mu: somebody has begun to commit it
	err     error         // set before done is closed
	done    chan struct{} // closed when the write has been committed or has failed
	told    chan struct{} // closed some time later: its leader has run hooks
}

// The writer commits local writes in groups: whoever gets the turn takes along
// what all others wait to have written, up to a block's worth, in the order of
// arrival, and publishes one delta for it.
type writer struct {
	committer *committer
	maxDelta  int
	supersede bool // Options.SupersedingPuts

	mu    sync.Mutex
	queue []*pendingWrite
}

// write commits changes, and waits for the hooks to catch up if they are far
// behind. If ctx ends before the commit has begun, nothing is written.
func (w *writer) write(ctx context.Context, c *changes) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &pendingWrite{changes: c, done: make(chan struct{}), told: make(chan struct{})}
	err := w.join(ctx, p)
	if err == nil {
		w.committer.hooks.await(ctx, p.told)
		w.committer.hooks.yield(ctx)
	}
	return err
}

// join commits a write together with those of others.
func (w *writer) join(ctx context.Context, p *pendingWrite) error {
	w.mu.Lock()
	w.queue = append(w.queue, p)
	w.mu.Unlock()
	for {
		select {
		case <-p.done:
		case <-ctx.Done():
			if w.withdraw(p) {
				return ctx.Err()
			}
		case <-w.committer.turn:
			if !w.isTaken(p) {
				w.lead(context.WithoutCancel(ctx))
				continue
			}
			w.committer.release()
		}
		<-p.done // it has been taken: its leader says how it went
		return p.err
	}
}

func (w *writer) isTaken(p *pendingWrite) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p.taken
}

// withdraw takes a write back, if nobody has begun to commit it.
func (w *writer) withdraw(p *pendingWrite) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.queue, p)
	if i >= 0 {
		w.queue = slices.Delete(w.queue, i, i+1)
	}
	return i >= 0
}

var errAborted = errors.New("crdt: the write was aborted by a panic")

// lead commits one group. The caller has the turn; lead releases it. The others
// learn of the commit before the hooks run: a hook may wait for one of them.
func (w *writer) lead(ctx context.Context) {
	group := w.takeGroup()
	defer func() { // also when a hook panics
		for _, p := range group {
			close(p.told)
		}
	}()
	w.commitAndReport(ctx, group)
	w.committer.hooks.runHooks()
}

// commitAndReport commits a group and lets its writers know.
func (w *writer) commitAndReport(ctx context.Context, group []*pendingWrite) {
	err := errAborted
	defer func() {
		for _, p := range group {
			if p.err == nil {
				p.err = err
			}
			close(p.done)
		}
	}()
	err = w.commitGroup(ctx, group)
}

// takeGroup takes waiting writes off the queue, as many as fit a delta.
func (w *writer) takeGroup() []*pendingWrite {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.queue) && (n == 0 || size+w.queue[n].changes.size <= w.maxDelta) {
		size += w.queue[n].changes.size
		w.queue[n].taken = true
		n++
	}
	group := w.queue[:n:n]
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue = nil // the array holds the writes that were taken
	}
	return group
}

// commitGroup commits the writes of a group and gives the turn back. The error
// is that of all; a write that is at fault alone gets its own and is left out.
func (w *writer) commitGroup(ctx context.Context, group []*pendingWrite) error {
	defer w.committer.release()
	err := w.commitInTurn(ctx, group)
	if len(group) == 1 || !errors.Is(err, ErrInvalidBlock) && !errors.Is(err, ErrTooLarge) {
		return err
	}
	for i, p := range group { // one of them was not admitted, or is larger than it looks
		p.err = nil // there may be more room now
		if err := w.commitInTurn(ctx, group[i:i+1]); err != nil {
			p.err = err
		}
	}
	return nil
}

func (w *writer) commitInTurn(ctx context.Context, group []*pendingWrite) error {
	if len(group) == 0 {
		return nil
	}
	c, err := w.committer.beginInTurn(ctx)
	if err != nil {
		return err
	}
	budget := w.committer.blocks.elementBudget("", c.heads().width(""))
	p := &packer{limit: min(budget, w.maxDelta), newDelta: w.committer.blocks.newDelta, priority: c.dag.height(""), supersede: w.supersede}
	deltas, err := c.compose(ctx, p, fold(group, budget))
	if err != nil {
		return err
	}
	if err := c.publish(ctx, deltas); err != nil {
		return err
	}
	return c.finish(ctx)
}

// fold joins the changes of a group, in order, without those that do not fit.
func fold(group []*pendingWrite, budget int) *changes {
	if len(group) == 1 && group[0].changes.fit(budget) == nil {
		return group[0].changes
	}
	all := &changes{}
	for _, p := range group {
		if p.err = p.changes.fit(budget); p.err == nil {
			all.addLater(p.changes)
		}
	}
	return all
}

// compose makes the deltas of local changes, the first to be published first. Mostly
// it is one.
func (c *commit) compose(ctx context.Context, p *packer, all *changes) ([]Delta, error) {
	if err := c.set.loadAhead(ctx, all.keys()); err != nil {
		return nil, err
	}
	var losers []*pb.Element
	for _, ch := range all.list {
		removed, err := c.prepare(ctx, p, ch)
		if err != nil {
			return nil, err
		}
		losers = append(losers, removed...)
	}
	for _, t := range losers {
		p.tombstone(t)
	}
	return p.deltas(), nil
}

// prepare packs one change, and returns the tombstones of losing versions.
//
// Where they do not fit one block, the losers' tombstones go into the later
// blocks. Readers come from the newest block down, so they see the losers go
// first, and never an old value in the place of the winner.
func (c *commit) prepare(ctx context.Context, p *packer, ch *change) (losers []*pb.Element, err error) {
	k, err := c.set.load(ctx, ch.key)
	if err != nil {
		return nil, err
	}
	removed, err := c.versionsToRemove(ctx, k, ch, p.supersede)
	if err != nil {
		return nil, err
	}
	var winner []*pb.Element
	if last := len(removed) - 1; last >= 0 {
		losers, winner = removed[:last], removed[last:]
	}
	if ch.put {
		p.priority = max(p.priority, k.nextPriority())
		p.replace(winner, &pb.Element{Key: ch.key, Value: ch.value})
		return losers, nil
	}
	for _, t := range winner {
		p.tombstone(t)
	}
	return losers, nil
}

// versionsToRemove returns the tombstones that a change needs: those of the losers,
// and then the winner's.
func (c *commit) versionsToRemove(ctx context.Context, k *keyChange, ch *change, supersede bool) ([]*pb.Element, error) {
	least := uint64(0)
	switch {
	case k.win == nil:
		return nil, nil
	case ch.remove || supersede:
	case k.win.priority < maxPriority:
		return nil, nil
	default:
		// A write must win over what it replaces, even if that came from another DAG
		// or claims a height beyond all others.
		least = maxPriority
	}
	ids, err := c.set.live(ctx, ch.key, least)
	return tombstonesFor(ch.key, ids), err
}

// A packer spreads elements and tombstones over as many deltas as it takes.
type packer struct {
	limit     int // of each delta, where it can be kept
	newDelta  func() Delta
	priority  uint64 // of the first delta
	supersede bool   // Puts remove what they replace
	full      []*pb.Delta
	now       *pb.Delta
	size      int
}

// replace packs a new value, and the tombstone of the winner in whose place it comes, if
// that is to go. If they fit one delta they are in the same, so that a reader of any does
// not see the key gone.
func (p *packer) replace(winner []*pb.Element, by *pb.Element) {
	size := elementSize(by.GetKey(), by.GetValue())
	if both := size + len(winner)*tombstoneSize(by.GetKey()); both <= p.limit {
		p.makeRoom(both)
		p.now.Tombstones = append(p.now.Tombstones, winner...)
	} else {
		for _, t := range winner {
			p.tombstone(t)
		}
		p.makeRoom(size)
	}
	p.now.Elements = append(p.now.Elements, by)
}

func (p *packer) tombstone(e *pb.Element) {
	p.makeRoom(tombstoneSize(e.GetKey()))
	p.now.Tombstones = append(p.now.Tombstones, e)
}

func (p *packer) makeRoom(size int) {
	if p.now == nil || p.size+size > p.limit {
		p.now, p.size = &pb.Delta{}, 0
		p.full = append(p.full, p.now)
	}
	p.size += size
}

func (p *packer) deltas() []Delta {
	deltas, priority := make([]Delta, len(p.full)), p.priority
	for i, d := range p.full {
		deltas[i] = p.newDelta()
		deltas[i].SetElements(d.Elements)
		slices.SortFunc(d.Tombstones, byKeyAndID) // where old peers have them
		deltas[i].SetTombstones(d.Tombstones)
		deltas[i].SetPriority(priority)
		priority = above(priority)
	}
	return deltas
}

func byKeyAndID(a, b *pb.Element) int {
	return cmp.Or(strings.Compare(a.GetKey(), b.GetKey()), strings.Compare(a.GetId(), b.GetId()))
}

// publish makes each delta a block on top of the last, and merges them. The DAG
// service gets them when the commit is finished.
func (c *commit) publish(ctx context.Context, deltas []Delta) error {
	for _, d := range deltas {
		b, err := c.build(ctx, d)
		if err != nil {
			return err
		}
		if err := c.committer.blocks.admit(ctx, b); err != nil {
			return err
		}
		c.made = append(c.made, b)
		if err := c.merge(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// heads are those that are not being purged.
func (c *commit) heads() tips { return c.committer.purge.shown(c.dag.heads.now) }

// headsToLink returns the heads of a DAG that the next block replaces.
func (c *commit) headsToLink(dagName string) []blockID {
	heads := c.heads().of(dagName)
	return heads[:min(len(heads), c.committer.blocks.maxLinks())]
}

// build makes a delta a block that is not known yet. A tag sees to that. A delta
// without one may make a block that was merged before, where a DAG starts again
// after a purge or on a head that a user put back: then it gets another priority,
// and fails if it has the greatest already.
func (c *commit) build(ctx context.Context, d Delta) (*block, error) {
	tagged := c.committer.blocks.tag(d)
	for {
		name := d.GetDagName()
		heads := c.headsToLink(name)
		skips := c.committer.skips.targetsOf(name, d.GetPriority(), heads)
		b, err := c.committer.blocks.build(d, heads, skips...)
		if err != nil {
			return nil, err
		}
		c.dag.assume(complete, skips...)
		if tagged {
			c.dag.assume(unknown, b.id)
			return b, nil
		}
		known, err := c.heardOf(ctx, b.id)
		if err != nil || !known {
			return b, err
		}
		d.SetPriority(d.GetPriority() + 1)
	}
}

// heardOf reports whether a block is known, hidden, or claimed to be there.
func (c *commit) heardOf(ctx context.Context, id blockID) (bool, error) {
	if fresh, err := c.isFresh(ctx, id); err != nil || !fresh {
		return true, err
	}
	keys, err := c.set.claimedKeys(ctx, id)
	return len(keys) > 0, err
}
