package crdt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// The repairer walks the whole DAG for blocks that should have been merged and
// were not. This code does not leave such blocks behind; stores of older
// versions may have them, and then are marked dirty.
type repairer struct {
	store     *rowStore
	blocks    *blockStore
	committer *committer
	fetcher   *fetcher
	log       logging.StandardLogger

	alone chan struct{} // holds one token; whoever takes it repairs or purges

	stuck  atomic.Bool // the last repair has failed: something could not be had
	failed func()      // called then; must not block

	mu     sync.Mutex // held to write the row /d
	marked uint64     // counts MarkDirty
}

// walkPatience is how long a repair or a purge waits for a block, also where
// Options.DAGSyncerTimeout sets no limit. What nobody has must not hold them up for ever: the
// one waits for the other, a purge hides its DAG meanwhile, and a checkpoint that has the block
// is only taken once a repair has failed.
const walkPatience = 5 * time.Minute

func newRepairer(c *committer, f *fetcher, log logging.StandardLogger) *repairer {
	r := &repairer{store: c.store, blocks: c.blocks, committer: c, fetcher: f, log: log, alone: make(chan struct{}, 1)}
	r.alone <- struct{}{}
	return r
}

// Repair reads every block below the heads and merges those that have not
// been, or refuses those that break a rule, and leaves alone what lies below these, or
// below a checkpoint whose snapshot is held.
// It keeps the CIDs of all blocks in memory while it runs, and waits for none of them for
// more than five minutes. When all is well it marks the datastore clean; when blocks are
// unavailable, it returns an error and leaves the datastore as dirty as it was. It waits for another Repair or PurgeDAG
// that is going on, and must not be called by a hook.
func (d *Datastore) Repair(ctx context.Context) (err error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	return d.repairer.repair(ctx)
}

// MarkDirty asks for a repair within Options.RepairInterval. The mark survives
// a restart.
func (d *Datastore) MarkDirty(ctx context.Context) {
	if d.enter() != nil {
		return
	}
	defer d.leave()
	if err := d.repairer.markDirty(ctx); err != nil {
		d.log.Errorf("marking the datastore dirty: %s", err)
	}
}

// MarkClean takes the dirty mark away.
func (d *Datastore) MarkClean(ctx context.Context) {
	if d.enter() != nil {
		return
	}
	defer d.leave()
	if err := d.repairer.markClean(ctx, d.repairer.marks()); err != nil {
		d.log.Errorf("marking the datastore clean: %s", err)
	}
}

// IsDirty reports whether a repair is due.
func (d *Datastore) IsDirty(ctx context.Context) bool {
	if d.enter() != nil {
		return false
	}
	defer d.leave()
	return d.repairer.isDirty(ctx)
}

func (r *repairer) markDirty(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.marked++
	return r.store.Put(ctx, r.store.keys.dirty, []byte{})
}

// marks returns how often the datastore has been marked dirty.
func (r *repairer) marks() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.marked
}

// markClean takes the mark away, unless it has been set again since then.
func (r *repairer) markClean(ctx context.Context, since uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.marked != since {
		return nil
	}
	return r.store.Delete(ctx, r.store.keys.dirty)
}

func (r *repairer) isDirty(ctx context.Context) bool {
	dirty, err := r.store.Has(ctx, r.store.keys.dirty)
	if err != nil && ctx.Err() == nil {
		r.log.Errorf("looking whether the datastore is dirty: %s", err)
	}
	return dirty
}

// run repairs a dirty datastore at once and then at every interval.
func (r *repairer) run(ctx context.Context, interval time.Duration) {
	if interval == 0 {
		return
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		if r.isDirty(ctx) {
			if err := r.repair(ctx); err != nil && ctx.Err() == nil {
				r.log.Errorf("repair: %s", err)
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// acquireAlone keeps others from repairing and purging.
func (r *repairer) acquireAlone(ctx context.Context) error {
	select {
	case <-r.alone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *repairer) releaseAlone() { r.alone <- struct{}{} }

func (r *repairer) repair(ctx context.Context) error {
	if err := r.acquireAlone(ctx); err != nil {
		return err
	}
	defer r.releaseAlone()
	marked := r.marks()
	errs := r.mend(ctx, r.findMissed(ctx))
	r.stuck.Store(len(errs) > 0)
	if len(errs) > 0 {
		r.failed()
		return fmt.Errorf("crdt: %d blocks could not be repaired, such as: %w", len(errs), errs[0])
	}
	return r.markClean(ctx, marked)
}

// mend mends what has been found, as far as it can, and returns all that went wrong.
func (r *repairer) mend(ctx context.Context, found *findings) []error {
	errs := found.errs
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	// Children first: then each block is complete when it comes.
	slices.SortFunc(found.missed, func(a, b *missed) int { return cmp.Compare(a.height, b.height) })
	for _, m := range found.missed {
		note(r.mergeMissed(ctx, m))
	}
	for _, m := range found.low {
		note(r.takeFromHeads(ctx, m))
	}
	for _, id := range found.checkpoints {
		note(r.seeCheckpoint(ctx, id))
	}
	if n := len(found.missed); n > 0 {
		r.log.Infof("repair has found %d blocks that had not been merged", n)
		r.fetcher.unread.ring() // what these link to may be missing as well
	}
	return errs
}

// A missed block has been neither merged nor refused, though one above it has
// been merged.
type missed struct {
	link   link
	height uint64    // 0 if it breaks a rule
	above  []blockID // merged blocks that link to it
}

// What a repair has found below the heads:
type findings struct {
	walk        traversal
	missed      []*missed
	low         []*missed // blocks of the frontier that others link to: these were missed, and then a peer announced them
	checkpoints []blockID // known blocks that may be checkpoints, and are not known as such: the old module knows none
	errs        []error

	above map[blockID][]blockID // known blocks that link to one that may be missed or low
}

// findMissed walks down from the heads.
func (r *repairer) findMissed(ctx context.Context) *findings {
	heads, pendingHeads := r.committer.frontier.tips()
	found := &findings{above: make(map[blockID][]blockID)}
	if err := r.walk(ctx, found, heads, pendingHeads); err != nil {
		found.errs = append(found.errs, err)
	}
	for _, m := range found.missed {
		m.above = found.above[m.link.id]
	}
	for _, id := range slices.Concat(heads.ids(), pendingHeads.ids()) {
		if above := found.above[id]; len(above) > 0 {
			found.low = append(found.low, &missed{link: link{id: id}, above: above})
		}
	}
	return found
}

func (r *repairer) walk(ctx context.Context, found *findings, heads, pendingHeads tips) error {
	stages, err := r.knownBlocks(ctx)
	if err != nil {
		return err
	}
	found.walk = traversal{stages: stages, judged: true, patience: walkPatience, enter: func(ctx context.Context, id blockID) (bool, error) {
		covered, err := r.store.covered(ctx, id)
		if covered {
			stages[id] |= known | begun
		}
		return !covered, err
	}}
	return r.blocks.traverse(ctx, heads.ids(), &found.walk, func(id blockID, b *block, err error) error {
		if err != nil || b.delta != nil {
			r.noteOdd(found, id, b, err)
			return ctx.Err()
		}
		for _, link := range b.links {
			if stages[link]&known == 0 || heads.has(link) || pendingHeads.has(link) {
				found.above[link] = append(found.above[link], id)
			}
		}
		if b.namesSnapshot && r.committer.frontier.checkpoints()[id] == nil {
			found.checkpoints = append(found.checkpoints, id)
		}
		return ctx.Err()
	})
}

// noteOdd notes a block that is not known, or that could not be read.
func (r *repairer) noteOdd(found *findings, id blockID, b *block, err error) {
	link := found.walk.link(id)
	switch {
	case err == nil:
		found.missed = append(found.missed, &missed{link: link, height: b.delta.priority})
	case !isFinal(err):
		found.errs = append(found.errs, err)
	case found.walk.stages[id]&known != 0: // the old module let more pass
		r.log.Warnf("repair does not go below %s", err)
	default:
		found.missed = append(found.missed, &missed{link: link})
	}
}

// seeCheckpoint takes notice of a checkpoint that was merged as a block like any other.
func (r *repairer) seeCheckpoint(ctx context.Context, id blockID) error {
	b, err := r.blocks.getMerged(ctx, id)
	if err != nil || b.checkpoint() == nil {
		return err
	}
	return r.committer.do(ctx, func(c *commit) error {
		m, err := c.dag.mark(ctx, id)
		if err == nil && m.state.merged() && c.checkpoints.now[id] == nil {
			c.checkpoints.see(b.checkpoint())
		}
		return err
	})
}

// takeFromHeads keeps a block from being a head if one of its DAG is above it.
func (r *repairer) takeFromHeads(ctx context.Context, m *missed) error {
	b, err := r.blocks.getMerged(ctx, m.link.id)
	if err != nil {
		return err
	}
	if below, err := r.isBelowItsDAG(ctx, m, b.delta.dagName); err != nil || !below {
		return err
	}
	return r.committer.do(ctx, func(c *commit) error { return c.dag.takeFromHeads(ctx, b.id) })
}

// knownBlocks returns those that have been merged or refused. To read all marks
// takes less time than to look up one after the other. Nobody needs what lies below a
// refused block, and it may be nowhere, so none of these is read. What covers have is
// not among them.
func (r *repairer) knownBlocks(ctx context.Context) (map[blockID]stage, error) {
	ids := make(map[blockID]stage)
	for b, err := range r.store.blockRows(ctx, r.store.keys.blocks, false) {
		if err != nil {
			return nil, err
		}
		ids[b.id] = known
		if len(b.value) > 0 && markState(b.value[0]) == refused {
			ids[b.id] |= begun
		}
	}
	return ids, nil
}

// mergeMissed merges a missed block, or refuses it for good.
func (r *repairer) mergeMissed(ctx context.Context, m *missed) error {
	raw, err := r.blocks.fetch(ctx, r.blocks.service, m.link)
	if err != nil {
		return err
	}
	b, err := r.blocks.judge(ctx, m.link.id, raw)
	switch {
	case err == nil:
		b.queued = true
		if b.neverHead, err = r.isBelowItsDAG(ctx, m, b.delta.dagName); err != nil {
			return err
		}
		return r.committer.do(ctx, func(c *commit) error { return c.mergeMissed(ctx, b) })
	case !isFinal(err):
		return err
	}
	r.log.Warnf("repair refuses a block: %s", err)
	return r.committer.do(ctx, func(c *commit) error {
		_, err := c.refuse(ctx, &block{id: m.link.id, queued: true})
		return err
	})
}

// mergeMissed merges a missed block, unless it has come from elsewhere meanwhile. A
// hidden one is not done: it may have to be merged yet.
func (c *commit) mergeMissed(ctx context.Context, b *block) error {
	if hidden, err := c.dag.hides(ctx, b.id); err != nil || hidden {
		return cmp.Or(err, fmt.Errorf("crdt: block %s is missing, and its checkpoint is being taken", b.id.Cid()))
	}
	if err := c.merge(ctx, b); err != nil || !b.neverHead {
		return err
	}
	return c.dag.takeFromHeads(ctx, b.id)
}

// isBelowItsDAG reports whether a block of the same DAG has been merged above a missed
// one, which then must not become a head. What can never be read is taken for one.
func (r *repairer) isBelowItsDAG(ctx context.Context, m *missed, dagName string) (bool, error) {
	for _, id := range m.above {
		b, err := r.blocks.getMerged(ctx, id)
		switch {
		case err != nil && !isFinal(err):
			return false, err
		case err != nil || b.delta.dagName == dagName:
			return true, nil
		}
	}
	return false, nil
}
