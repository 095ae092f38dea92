package crdt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
)

// The committer is the only writer of the store. Every change of state is a
// commit: the holder of the turn builds it in memory and writes it as one
// batch.
//
// A method whose name ends in InTurn is for the holder of the turn alone, as is
// every method of a commit.
type committer struct {
	store    *rowStore
	blocks   *blockStore
	frontier *frontier
	hooks    *hookQueue
	notify   callbacks
	leftOut  atomic.Uint64 // void elements and tombstones of merged blocks
	grown    growthCount   // of the unnamed DAG, since a checkpoint of it was held
	cascade  bell          // rings while the merger must go on with what commits have left over
	recheck  bell          // rings while it must make a commit: a write that failed may have been made, and nobody been told
	portion  atomic.Int64  // what one commit of a long job does at most, in tests; 0: as much as any may

	turn chan struct{} // holds one token; whoever takes it may commit

	// Owned by the holder of the turn:
	stale             bool                // a write failed, and the store must be looked at again
	unsure            *commit             // the one whose write failed: it may have been made
	mayHaveTombstones bool                // in the store
	mayHaveEarly      bool                // versions whose blocks are not merged: a take has begun some time
	mayHaveClaims     bool                // in the store, or rows of what summaries sum up
	fewer             bool                // some of these rows have gone since they were looked for
	ahead             map[*readAhead]bool // going on, or of commits that are still to come
	bound             keyBound            // of the keys that have records in it
	untold            []blockID           // settled blocks with queue rows, whose parents have still to be told
	unread            bool                // there are more of these than find a place
	spread            int                 // maxSpread, but for tests
	uncovers          int                 // maxValueBytes, likewise
	checkpointEvery   int64               // Options.CheckpointEvery
	purge             *purge              // that is going on, or nil
	skips             skips
	voids             boundedLog

	walks bool // Options.WalkHistory
}

// maxUntold is how many untold blocks are kept in memory, in terms of what one commit
// looks at.
const maxUntold = 8

// callbacks tell others of commits. They must not block.
type callbacks struct {
	reloaded       func()         // the store may have rows that nobody knows of
	published      func([]*block) // these blocks are new; called in the order of the commits
	checkpointSeen func()         // what is known of a checkpoint has changed, or one has become complete or due
}

func newCommitter(store *rowStore, blocks *blockStore, f *frontier, hooks *hookQueue, notify callbacks, log logging.StandardLogger) *committer {
	c := &committer{
		store:    store,
		blocks:   blocks,
		frontier: f,
		hooks:    hooks,
		notify:   notify,
		cascade:  newBell(),
		recheck:  newBell(),
		turn:     make(chan struct{}, 1),
		stale:    true,
		spread:   maxSpread,
		uncovers: maxValueBytes,
		skips:    make(skips),
		voids:    boundedLog{write: log.Warnf, what: "leaving out part of a block"},
	}
	c.release()
	return c
}

// most is how many things of a kind one commit of a long job does, at most: n, but for tests.
func (c *committer) most(n int) int {
	if few := c.portion.Load(); few > 0 {
		return int(few)
	}
	return n
}

// acquire takes the turn.
func (c *committer) acquire(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release gives the turn back. Run the hooks next.
func (c *committer) release() { c.turn <- struct{}{} }

// A commit is one atomic change of the state.
type commit struct {
	committer   *committer
	set         *setChange
	dag         *dagChange
	checkpoints checkpointsChange
	made        []*block // published by it: for the DAG service, before all else
	void        []*block // merged by it without some of their elements or tombstones

	// Once that is known:
	rows   []row   // what it writes
	events []event // what the hooks are told when it is written
	isDue  bool    // a checkpoint is, now that it is written

	held time.Duration // how long it held the turn, once that is over
}

// beginInTurn starts a commit. A commit that is not finished leaves no trace.
func (c *committer) beginInTurn(ctx context.Context) (*commit, error) {
	if c.stale {
		if err := c.reloadInTurn(ctx); err != nil {
			return nil, err
		}
		c.notify.reloaded()
	}
	now := &commit{
		committer:   c,
		set:         newSetChange(c.store, c.mayHaveTombstones, c.mayHaveClaims),
		checkpoints: checkpointsChange{overlayOn(c.frontier.checkpoints())},
	}
	now.dag = newDAGChange(c.store, c.frontier, &now.checkpoints, c.spread)
	now.set.purge, now.dag.purge = c.purge, c.purge
	now.set.mayHaveEarly = c.mayHaveEarly
	now.set.bound = c.bound
	now.dag.mayHaveSummed = c.mayHaveClaims
	return now, nil
}

// reloadInTurn brings what is kept in memory in line with the store.
func (c *committer) reloadInTurn(ctx context.Context) error {
	c.spoilInTurn()
	if err := c.store.redo(ctx); err != nil {
		return err
	}
	heads, pendingHeads, err := c.store.loadTips(ctx)
	if err != nil {
		return err
	}
	known, err := c.store.loadCheckpoints(ctx)
	if err != nil {
		return err
	}
	format, _, err := storedVersion(ctx, c.store)
	if err != nil {
		return err
	}
	c.mayHaveEarly = format >= coveredVersion
	c.frontier.set(heads, pendingHeads, known)
	c.store.covers.set(known.heldSegments())
	c.mayHaveTombstones, c.mayHaveClaims, c.fewer = true, true, true
	if err := c.refreshInTurn(ctx); err != nil {
		return err
	}
	if c.bound, err = c.store.keyBound(ctx); err != nil {
		return err
	}
	if err := c.makeSureInTurn(ctx); err != nil {
		return err
	}
	c.stale = false
	return nil
}

// makeSureInTurn tells of a commit whose write failed, if it was made all the same.
func (c *committer) makeSureInTurn(ctx context.Context) error {
	if c.unsure == nil {
		return nil
	}
	made, err := c.store.hasAll(ctx, c.unsure.rows)
	if err != nil {
		return err
	}
	if made {
		c.unsure.tell()
	}
	c.unsure = nil
	return nil
}

// refreshInTurn finds out whether there is still anything to look up for every
// merged block: mostly there is not, and merging is faster.
func (c *committer) refreshInTurn(ctx context.Context) (err error) {
	if !c.fewer {
		return nil
	}
	if c.mayHaveTombstones {
		if c.mayHaveTombstones, err = c.store.hasAny(ctx, c.store.keys.tombstones); err != nil {
			return err
		}
	}
	if c.mayHaveClaims {
		c.mayHaveClaims, err = c.store.hasAny(ctx, c.store.keys.claims)
	}
	c.fewer = err != nil
	return err
}

// merge adds a block to the commit, unless it has been merged before, or is
// hidden.
func (c *commit) merge(ctx context.Context, b *block) error {
	c.committer.purge.note(b)
	if fresh, err := c.isFresh(ctx, b.id); err != nil || !fresh {
		return err
	}
	if err := c.mergeSet(ctx, b.id, b.delta); err != nil {
		return err
	}
	if b.delta.void > 0 {
		c.void = append(c.void, b)
	}
	if cp := b.checkpoint(); cp != nil {
		cp.state = c.firstState(cp)
		c.checkpoints.see(cp)
	}
	return c.dag.merge(ctx, b)
}

// mergeSet applies a delta alone.
func (c *commit) mergeSet(ctx context.Context, id blockID, d *deltaContent) error {
	if err := c.checkClaims(ctx, d); err != nil {
		return err
	}
	return c.set.merge(ctx, id, d, c.dag.merged)
}

// mergePart applies some tombstones of a block that is to be merged later.
func (c *commit) mergePart(ctx context.Context, w wanted, part []*pb.Element) error {
	if hidden, err := c.dag.hides(ctx, w.id); err != nil || hidden {
		return err
	}
	c.dag.setQueued(w.id, &w)
	return c.set.removeAll(ctx, part, c.dag.merged)
}

// refuse marks a block as one that will never be merged. It returns false for
// a block that has been judged before.
func (c *commit) refuse(ctx context.Context, b *block) (bool, error) {
	if fresh, err := c.isFresh(ctx, b.id); err != nil || !fresh {
		return false, err
	}
	return true, c.dag.refuse(ctx, b)
}

// isFresh reports whether nothing is known of a block, and it is not hidden.
func (c *commit) isFresh(ctx context.Context, id blockID) (bool, error) {
	if hidden, err := c.dag.hides(ctx, id); err != nil || hidden {
		return false, err
	}
	m, err := c.dag.mark(ctx, id)
	return err == nil && m.state == unknown, err
}

// finish stores the commit's own blocks and writes the commit. After an error
// nothing has changed, or, when the store failed, it is unknown whether it has.
func (c *commit) finish(ctx context.Context) error {
	if err := c.electWinners(ctx); err != nil {
		return err
	}
	if err := c.set.keepCovered(ctx, c.checkpoints.now.purgedSegments()); err != nil {
		return err
	}
	if err := c.dag.spread(ctx); err != nil {
		return err
	}
	if invariants {
		c.check()
	}
	c.rows = append(append(c.set.rows(), c.dag.rows()...), c.rows...)
	if c.checkpoints.changed {
		c.rows = append(c.rows, c.checkpoints.rows(c.committer.store.keys.checkpoint, (*checkpoint).encode)...)
		if err := c.noteSpare(ctx, c.checkpoints.unused()); err != nil {
			return err
		}
	}
	if len(c.rows) == 0 {
		c.committer.learnInTurn(c)
		return nil
	}
	c.events = c.committer.hooks.eventsOf(c.set.order) // now: once the write has failed, the caller may reuse the values
	return c.committer.writeInTurn(ctx, c)
}

// electWinners chooses the winners of the keys that lost theirs.
func (c *commit) electWinners(ctx context.Context) error {
	for {
		err := c.set.electWinners(ctx)
		var missing missingValues
		if !errors.As(err, &missing) {
			return err
		}
		if any, failed := c.removeLost(ctx, missing); failed != nil || !any {
			return cmp.Or(failed, err)
		}
	}
}

// removeLost removes those of some losers whose values nothing has: their blocks are not here
// any more, and did not have them, or they would have gone with these. Rows of the old module
// and repairs by hand may leave such. Should a block come, it gives what it has.
func (c *commit) removeLost(ctx context.Context, missing missingValues) (any bool, err error) {
	for id, names := range namesByBlock(missing) {
		here, err := c.committer.store.isHere(ctx, id)
		if err != nil {
			return false, err
		}
		for _, n := range names {
			if !here {
				c.set.keys[n.key].setLoser(id, nil)
				any = true
			}
		}
	}
	return any, nil
}

func (c *committer) writeInTurn(ctx context.Context, now *commit) error {
	if err := c.blocks.addAll(ctx, now.made); err != nil {
		return err
	}
	c.outdateInTurn(now.rows)
	if err := c.store.write(ctx, now.rows); err != nil {
		c.stale, c.unsure = true, now
		c.recheck.ring()
		return fmt.Errorf("crdt: writing to the store: %w", err)
	}
	c.learnInTurn(now)
	now.tell()
	return nil
}

// learnInTurn brings what is kept in memory in line with a commit.
func (c *committer) learnInTurn(now *commit) {
	claims := len(now.set.claims)+len(now.dag.summed) > 0
	c.mayHaveTombstones = c.mayHaveTombstones || now.set.setsTombstone(true)
	c.mayHaveClaims = c.mayHaveClaims || claims
	c.fewer = c.fewer || claims || now.set.setsTombstone(false)
	c.bound.raise(now.set.order)
	c.frontier.set(now.dag.heads.now, now.dag.pendingHeads.now, now.checkpoints.now)
	if now.checkpoints.changed {
		c.store.covers.set(now.checkpoints.now.heldSegments())
	}
	for _, name := range now.dag.begunAnew {
		c.skips.clear(name) // they would lead newcomers below it
	}
	blocks := int64(0)
	for _, id := range now.dag.completed {
		tip := now.dag.marks[id].tip
		if !c.purge.hides(id) {
			c.skips.note(tip.DAGName, tip.Height, id)
		}
		if tip.DAGName == "" {
			blocks++
		}
	}
	now.isDue = c.countInTurn(now, blocks)
	c.untold = c.untold[now.dag.takenUp:]
	c.leaveInTurn(now.dag.untold)
}

// leaveInTurn leaves settled blocks with queue rows, whose parents have still to be
// told, to the merger. The rows of those that find no place are read again.
func (c *committer) leaveInTurn(ids []blockID) {
	free := max(maxUntold*c.spread-len(c.untold), 0)
	if len(ids) > free {
		ids, c.unread = ids[:free], true
	}
	switch c.untold = append(c.untold, ids...); {
	case len(c.untold) > 0:
		c.cascade.ring()
	case c.unread:
		c.unread = false
		c.notify.reloaded()
	}
}

// someUntoldInTurn returns up to n untold blocks. One alone follows a failure, perhaps
// that of the first: this goes to the end.
func (c *committer) someUntoldInTurn(n int) []blockID {
	if n == 1 && len(c.untold) > 1 {
		c.untold = append(c.untold[1:], c.untold[0])
	}
	return c.untold[:min(n, len(c.untold))]
}

// reclaim takes over those queued blocks that are known: it is their parents that have to
// be told. It returns the others, which are missing, but for hidden ones.
func (c *committer) reclaim(ctx context.Context, queued []wanted) (missing []wanted, err error) {
	var here []blockID
	for _, w := range queued {
		switch found, err := c.store.isKnown(ctx, w.id); {
		case err != nil:
			return nil, err
		case found:
			here = append(here, w.id)
		default:
			hidden, err := c.store.hiddenBy(ctx, c.frontier.checkpoints(), w.id)
			if err != nil {
				return nil, err
			}
			if !hidden {
				missing = append(missing, w)
			}
		}
	}
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	c.leaveInTurn(slices.DeleteFunc(here, c.purge.hides))
	return missing, nil
}

// setIn sets an entry of a map that may be nil: most commits need only some of theirs.
func setIn[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// tell has the hooks run and the new blocks announced.
func (c *commit) tell() {
	c.committer.hooks.push(c.events)
	c.committer.notify.published(c.made)
	if c.bringsCheckpoint() || c.isDue {
		c.committer.notify.checkpointSeen()
	}
	for _, b := range c.void {
		c.committer.leftOut.Add(uint64(b.delta.void))
		c.committer.voids.report(fmt.Errorf("%d elements and tombstones of block %s, such as: %w", b.delta.void, b.id.Cid(), b.delta.fault))
	}
}

// probe makes a commit that changes nothing, to see whether the store works.
func (c *committer) probe(ctx context.Context) error {
	return c.attempt(ctx, nil, func(now *commit) error {
		open := c.store.keys.open
		now.rows = []row{{key: open, value: []byte{}}} // as it is
		_, err := c.store.Has(ctx, open)
		return err
	})
}

// do runs one commit. Values that turn out to be needed are read from their
// blocks while others may commit, and then change is run again, on a new
// commit.
func (c *committer) do(ctx context.Context, change func(*commit) error) error {
	err := c.blocks.withValues(ctx, func(values map[versionName]*loser) error { return c.once(ctx, values, change) })
	c.hooks.yield(ctx)
	return err
}

// once runs one commit, with values that were read from blocks. If a block comes
// about which too much was claimed, it runs commits that drop the claims, first.
func (c *committer) once(ctx context.Context, values map[versionName]*loser, change func(*commit) error) error {
	for {
		err := c.attempt(ctx, values, change)
		var about manyClaims
		if !errors.As(err, &about) {
			return err
		}
		if err := c.attempt(ctx, values, removeSome(context.WithoutCancel(ctx), blockID(about))); err != nil {
			return err
		}
	}
}

func (c *committer) attempt(ctx context.Context, values map[versionName]*loser, change func(*commit) error) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.hooks.runHooks()
	defer c.release()
	began := time.Now()
	ctx = context.WithoutCancel(ctx) // a commit is not cut off half-way
	commit, err := c.beginInTurn(ctx)
	if err != nil {
		return err
	}
	defer func() { commit.held = time.Since(began) }()
	commit.set.fetched = values
	if err := change(commit); err != nil {
		return err
	}
	return commit.finish(ctx)
}
