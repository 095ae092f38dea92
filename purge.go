package crdt

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
)

// PurgeDAG forgets a DAG on this replica, "" being the unnamed one: its blocks,
// which are removed from the DAG service, its heads, and the versions that its
// blocks gave to keys. The best version of another DAG wins then, or the key
// goes, and the hooks are told. What tombstones of the DAG removed of other DAGs
// stays removed; what they removed of its own is forgotten with them. The blocks
// may be merged again, from a peer or by Publish, and have the effect that they
// had; only what other DAGs had removed stays removed.
//
// It takes what is below the heads and has been merged, and reads blocks of
// these alone, and the snapshots of checkpoints that stand for others. If one cannot
// be read, it fails, and so it does on a dirty datastore that lacks blocks: repair it
// first. After a failure some of the oldest blocks are gone, and the pairs that they gave,
// though what is above them is still there: a further call goes on. The next start goes on
// by itself, but only with what checkpoints cover. It returns how many
// blocks it has removed from the DAG service: 0 if there is nothing to forget.
//
// It waits for a repair that is going on, and for checkpoints of other DAGs that are
// being made or taken; of this DAG none is any more. What is published in the DAG meanwhile
// begins it anew. Blocks that peers build on what is being forgotten have it
// fetched again, once the call has ended. If some versions of the DAG have been
// removed, or it has checkpoints, all blocks of the other DAGs are read as well, to
// find out by whom. The CIDs of all blocks that it reads are kept in memory, and their links. It
// must not be called by a hook.
func (m *MerkleCRDT) PurgeDAG(ctx context.Context, dagName string) (removed int, err error) {
	ctx, end, err := m.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end(&err)
	if err := checkDAGName(dagName); err != nil {
		return 0, err
	}
	return m.checkpointer.purge(ctx, dagName)
}

func (c *checkpointer) purge(ctx context.Context, dagName string) (int, error) {
	if err := c.repairer.acquireAlone(ctx); err != nil {
		return 0, err
	}
	defer c.repairer.releaseAlone()
	readmit, err := c.exclude(ctx, dagName)
	if err != nil {
		return 0, err
	}
	defer readmit()
	p := &purge{store: c.store, blocks: c.blocks, committer: c.committer, fetcher: c.fetcher, checkpointer: c, dagName: dagName}
	defer p.end(context.WithoutCancel(ctx))
	return p.run(ctx)
}

// A purge is one call of PurgeDAG. It goes on in commits of bounded size, the
// oldest blocks first: so no version of the DAG is uncovered on the way, and
// what is left is always below heads or pending heads, where a further call finds it.
//
// Each commit takes marks away, the store is synced, and then the blocks are removed from
// the DAG service. The other way round, a call that was cut off would leave marks
// whose blocks cannot be read, where the next one had to stop. So that nothing
// is left behind in the DAG service either, the commit writes down what is to be
// removed.
//
// Others commit in between. To them all blocks of the purge count as not merged
// from the moment that it knows which these are: what is built on them waits for
// them, a tombstone of their versions leaves a row, and neither they nor summaries
// that tell of them are merged before the purge has ended.
type purge struct {
	store     *rowStore
	blocks    *blockStore
	committer *committer
	fetcher   *fetcher
	dagName   string
	walk      traversal
	found     map[blockID]*foundBlock
	wants     []blockID        // missing blocks that the DAG alone has wanted
	segments  []segment        // of checkpoints of the DAG that were held
	pages     map[blockID]bool // of those of other DAGs
	names     removers         // nil: not known yet

	checkpointer *checkpointer

	// Owned by the holder of the turn:
	late   []blockID        // blocks of the DAG that were merged after the purge began
	hidden map[blockID]bool // count as not merged; not changed any more once it is set
}

// A foundBlock is one that the purge has come across, of whatever DAG.
type foundBlock struct {
	id     blockID
	tip    HeadValue
	size   int64 // decoded
	links  []blockID
	summed []blockID // of a summary

	above []*foundBlock // that link to it
	below int           // how many that it links to are still to be purged
}

// hides reports whether a block counts as not merged. There may be no purge.
func (p *purge) hides(id blockID) bool { return p != nil && p.hidden[id] }

// shown returns the tips that count.
func (p *purge) shown(t tips) tips {
	if p == nil || p.hidden == nil {
		return t
	}
	shown := make(tips, len(t))
	for id, v := range t {
		if !p.hidden[id] {
			shown[id] = v
		}
	}
	return shown
}

// note takes notice of a block that is merged while the purge looks for its
// blocks.
func (p *purge) note(b *block) {
	if p != nil && p.hidden == nil && b.delta.dagName == p.dagName {
		p.late = append(p.late, b.id)
	}
}

func (p *purge) run(ctx context.Context) (removed int, err error) {
	if removed, err = p.dropCovered(ctx); err != nil {
		return removed, err
	}
	tops, left, err := p.start(ctx)
	if err != nil || len(tops)+len(left)+len(p.committer.frontier.checkpoints().of(p.dagName)) == 0 {
		return removed, err
	}
	if left, err = p.findAll(ctx, tops, left); err != nil {
		return removed, err
	}
	n, err := p.checkpointer.removeUnmarked(ctx, left)
	if removed += n; err != nil {
		return removed, err
	}
	if err := p.forgetSnapshots(ctx); err != nil {
		return removed, err
	}
	if p.pages, err = p.checkpointer.pageIDs(ctx); err != nil {
		return removed, err
	}
	n, err = p.forgetAll(ctx)
	if removed += n; err != nil {
		return removed, err
	}
	return removed, p.removeRemains(ctx, tops)
}

// findAll finds the blocks of the DAG, and makes them count as not merged.
func (p *purge) findAll(ctx context.Context, tops, left []blockID) (stillLeft []blockID, err error) {
	p.walk = traversal{enter: p.store.isHere, merged: true, patience: walkPatience}
	p.found = make(map[blockID]*foundBlock)
	if err := p.find(ctx, tops); err != nil {
		return nil, err
	}
	if err := p.checkGaps(ctx); err != nil {
		return nil, err
	}
	if left, err = p.hide(ctx, left); err != nil {
		return nil, err
	}
	return left, p.find(ctx, p.late)
}

// start begins to note what is merged. It returns the tops of the DAG, and what
// an earlier purge has left to be removed.
func (p *purge) start(ctx context.Context) (tops, left []blockID, err error) {
	err = p.committer.do(ctx, func(c *commit) error {
		tops = append(c.dag.heads.now.of(p.dagName), c.dag.pendingHeads.now.of(p.dagName)...)
		p.committer.purge = p
		var err error
		left, _, err = p.store.idsIn(ctx, p.store.keys.purged)
		return err
	})
	return tops, left, err
}

// find reads the merged blocks in from and below, also those of other DAGs, as
// there may be some of the DAG below these.
func (p *purge) find(ctx context.Context, from []blockID) error {
	return p.blocks.traverse(ctx, from, &p.walk, func(id blockID, b *block, err error) error {
		if err != nil {
			return err
		}
		p.found[id] = &foundBlock{id: id, tip: b.tip(), size: footprint(b.raw), links: b.links, summed: b.summed}
		return ctx.Err()
	})
}

// checkGaps refuses to purge what a repair has to look at first: below a gap
// there may be blocks of this DAG, or of others, that nothing else leads to.
func (p *purge) checkGaps(ctx context.Context) error {
	dirty, err := p.store.Has(ctx, p.store.keys.dirty)
	if !dirty || err != nil {
		return err
	}
	for _, b := range p.found {
		if err := p.checkBelow(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// checkBelow looks for gaps right below a block. What a call that was cut off has hidden,
// because a checkpoint of the DAG covers it, is none, and no repair could fill it.
func (p *purge) checkBelow(ctx context.Context, b *foundBlock) error {
	purged := p.committer.frontier.checkpoints().of(p.dagName).in(checkpointPurged).segments()
	m, err := p.store.mark(ctx, b.id)
	if err != nil || m.state != complete {
		return err
	}
	for _, link := range b.links {
		switch m, err := p.store.mark(ctx, link); {
		case err != nil:
			return err
		case m.state == unknown:
			if hidden, err := p.store.inSegments(ctx, purged, link); err != nil {
				return err
			} else if hidden {
				continue
			}
			return fmt.Errorf("crdt: the datastore is dirty, and block %s has not been merged: repair it before purging", link.Cid())
		}
	}
	return nil
}

// hide makes the blocks of the DAG count as not merged. It returns what is left
// to be removed of an earlier purge and has not been merged again.
func (p *purge) hide(ctx context.Context, left []blockID) (stillLeft []blockID, err error) {
	hidden := make(map[blockID]bool)
	for id, b := range p.found {
		hidden[id] = b.tip.DAGName == p.dagName
	}
	err = p.committer.do(ctx, func(c *commit) error {
		stillLeft = nil
		for _, id := range left {
			if merged, err := c.dag.merged(ctx, id); err != nil {
				return err
			} else if !merged {
				stillLeft = append(stillLeft, id)
			}
		}
		for _, id := range slices.Concat(stillLeft, p.late) {
			hidden[id] = true
		}
		p.hidden = hidden
		c.checkpoints.purge(p.dagName)
		c.committer.skips.clear(p.dagName)
		return nil
	})
	return stillLeft, err
}

// order returns the blocks of the DAG, those below others before them, and apart
// from that in the order of their priorities.
func (p *purge) order() []*foundBlock {
	for _, b := range p.found {
		for _, link := range slices.Concat(b.links, b.summed) {
			if child := p.found[link]; child != nil {
				child.above = append(child.above, b)
				b.below++
			}
		}
	}
	ready, order := &purgeHeap{}, make([]*foundBlock, 0, len(p.found))
	for _, b := range p.found {
		if b.below == 0 {
			heap.Push(ready, b)
		}
	}
	for ready.Len() > 0 {
		b := heap.Pop(ready).(*foundBlock)
		if b.tip.DAGName == p.dagName {
			order = append(order, b)
		}
		for _, parent := range b.above {
			if parent.below--; parent.below == 0 {
				heap.Push(ready, parent)
			}
		}
	}
	return order
}

// purgeHeap has the block of the least priority on top.
type purgeHeap []*foundBlock

func (h purgeHeap) Len() int { return len(h) }
func (h purgeHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].tip.Height, h[j].tip.Height), h[i].id.compare(h[j].id)) < 0
}
func (h purgeHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *purgeHeap) Push(x any)   { *h = append(*h, x.(*foundBlock)) }
func (h *purgeHeap) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	*h = (*h)[:last]
	return b
}

// forgetAll forgets the blocks of the DAG, portion by portion.
func (p *purge) forgetAll(ctx context.Context) (removed int, err error) {
	for order := p.order(); len(order) > 0; {
		n, size := 0, int64(0)
		for n < min(len(order), p.committer.most(maxGroupBlocks)) && (n == 0 || size+order[n].size <= maxGroupSize) {
			size += order[n].size
			n++
		}
		p.committer.hooks.waitWhileFull()
		blocks, err := p.read(ctx, order[:n])
		if err != nil {
			return removed, err
		}
		done, gone, err := p.forget(ctx, blocks)
		if err != nil {
			return removed, err
		}
		n, err = p.checkpointer.removeUnmarked(ctx, gone)
		if removed += n; err != nil {
			return removed, err
		}
		order = order[done:]
	}
	return removed, nil
}

// read reads the blocks of a portion.
func (p *purge) read(ctx context.Context, portion []*foundBlock) ([]*block, error) {
	ids := make([]blockID, len(portion))
	for i, b := range portion {
		ids[i] = b.id
	}
	at := make(map[blockID]*block, len(ids))
	err := p.eachOf(ctx, ids, func(b *block) error { at[b.id] = b; return nil })
	blocks := make([]*block, len(ids))
	for i, id := range ids {
		blocks[i] = at[id]
	}
	return blocks, err
}

// eachOf calls f with some blocks, and with none below them.
func (p *purge) eachOf(ctx context.Context, ids []blockID, f func(*block) error) error {
	return p.blocks.traverse(ctx, ids, &traversal{alone: true, merged: true, patience: walkPatience}, func(_ blockID, b *block, err error) error {
		if err == nil {
			err = f(b)
		}
		return err
	})
}

// forget commits as many of the blocks as fit, and returns how many, and which of them are to
// be removed from the DAG service.
func (p *purge) forget(ctx context.Context, blocks []*block) (done int, gone []blockID, err error) {
	for {
		err = p.committer.do(ctx, func(c *commit) error {
			c.set.purge, c.dag.purge = nil, nil // to it the blocks are merged still
			var err error
			done, err = p.fill(ctx, c, blocks)
			gone = c.dag.purged
			return err
		})
		if err != errUnexplained {
			return done, gone, err
		}
		if err := p.explain(ctx); err != nil {
			return 0, nil, err
		}
	}
}

// maxUncoveredKeys is at how many keys a commit may uncover values of other DAGs
// and take a further block yet.
const maxUncoveredKeys = 64

func (p *purge) fill(ctx context.Context, c *commit, blocks []*block) (done int, err error) {
	c.dag.purged = []blockID{}
	for uncovered := 0; done < len(blocks) && uncovered < maxUncoveredKeys; done++ {
		b := blocks[done]
		for key := range b.versions() {
			n, err := p.forgetVersion(ctx, c, versionName{key, b.id})
			if err != nil {
				return 0, err
			}
			uncovered += n
		}
		if err := c.set.forgetClaims(ctx, b); err != nil {
			return 0, err
		}
		c.checkpoints.removeIdle(b.id)
		wants, err := c.dag.forget(ctx, b)
		if err != nil {
			return 0, err
		}
		p.wants = append(p.wants, wants...)
		if !p.pages[b.id] {
			c.dag.purged = append(c.dag.purged, b.id)
		}
	}
	return done, nil
}

// forgetVersion removes a version as a tombstone would, but leaves a tombstone
// only if another DAG has removed it. It returns how many values it may have
// uncovered.
func (p *purge) forgetVersion(ctx context.Context, c *commit, n versionName) (uncovered int, err error) {
	k, err := c.set.load(ctx, n.key)
	if err != nil {
		return 0, err
	}
	live, err := c.set.isLive(ctx, k, n.id)
	if err != nil {
		return 0, err
	}
	if live {
		k.remove(n.id)
		if k.winner == winnerUndecided && k.mayHaveLosers {
			uncovered = 1
		}
		return uncovered, nil
	}
	left, err := c.set.hasTombstone(ctx, n)
	if err != nil || left {
		return 0, err
	}
	if p.names == nil {
		return 0, errUnexplained
	}
	if byOthers, named := p.names[n]; byOthers || !named {
		c.set.setTombstone(n, true)
	}
	return 0, nil
}

// removeRemains leaves nothing of the purge. Heads without a mark were put there by
// hand.
func (p *purge) removeRemains(ctx context.Context, tops []blockID) error {
	return p.committer.do(ctx, func(c *commit) error {
		for _, id := range tops {
			c.dag.heads.remove(id)
			c.dag.pendingHeads.remove(id)
		}
		c.dag.purged = []blockID{}
		return nil
	})
}

// end lets blocks be merged again. Those that were fetched before they were
// removed must not be: they would not be in the DAG service.
func (p *purge) end(ctx context.Context) {
	_ = p.committer.acquire(ctx) // it does not end
	p.fetcher.remove(p.hidden, p.wants)
	p.committer.purge = nil
	p.committer.release()
	p.fetcher.unread.ring() // what is wanted again
}

// forget takes a merged block out, as if it had never come. It is wanted again
// if others wait for it. It returns missing blocks that are wanted no more.
func (c *dagChange) forget(ctx context.Context, b *block) (unwanted []blockID, err error) {
	m, err := c.mark(ctx, b.id)
	if err != nil {
		return nil, err
	}
	c.heads.remove(b.id)
	c.pendingHeads.remove(b.id)
	c.setMark(b.id, &mark{state: unknown})
	for _, id := range b.summed {
		c.setSummed(id, nil)
	}
	parents, err := c.parents(ctx, b.id, 0)
	if err != nil {
		return nil, err
	}
	c.setQueued(b.id, nil)
	if len(parents) > 0 {
		c.setQueued(b.id, &wanted{id: b.id, height: b.delta.priority})
	}
	if m.state == complete {
		return nil, nil
	}
	return c.abandonLinks(ctx, b)
}

func (c *dagChange) abandonLinks(ctx context.Context, b *block) (unwanted []blockID, err error) {
	if len(b.links) > fewLinks {
		c.setLinks(b.id, nil)
	}
	for _, link := range b.links {
		gone, err := c.abandon(ctx, link, b.id)
		if err != nil {
			return nil, err
		}
		if gone {
			unwanted = append(unwanted, link)
		}
	}
	return unwanted, nil
}

// abandon is for a block below one that has just been forgotten. If it is pending
// it may be a pending head now, and if it is missing it is not wanted any more, unless
// others wait for it.
func (c *dagChange) abandon(ctx context.Context, id, parent blockID) (unwanted bool, err error) {
	w, err := c.waiters(ctx, id)
	if err != nil {
		return false, err
	}
	w.remove(parent)
	m, err := c.mark(ctx, id)
	if err != nil {
		return false, err
	}
	switch m.state {
	case pending:
		return false, c.addPendingHead(ctx, id, m)
	case unknown:
		parents, err := c.parents(ctx, id, 0)
		if err != nil || len(parents) > 0 {
			return false, err
		}
		c.setQueued(id, nil)
		return true, nil
	}
	return false, nil
}
