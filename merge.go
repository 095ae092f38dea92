package crdt

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
)

// The merger commits the blocks that were fetched or announced inline, several
// at a time when they come faster than they can be committed one by one. It is
// one goroutine.
type merger struct {
	committer *committer
	ctx       context.Context
	log       logging.StandardLogger
	fetcher   *fetcher
	classes   *sizeClasses
	readers   sync.WaitGroup // goroutines that read values that blocks wait for
	refusals  boundedLog

	pace          pace
	cascadeStep   int // how many untold blocks the next commit takes up at most
	cascadeFailed time.Time
}

// Limits of the merger.
const (
	maxGroupBlocks = 256     // in one commit
	maxGroupSize   = 8 << 20 // in one commit, as footprint counts bytes
)

// Local writes wait for a commit of the merger: its pace says how much goes into one, of blocks
// as weight counts it, and of parents that learn of settled ones. A large block is a commit of
// its own.
const (
	minGroupWeight   = 64
	firstGroupWeight = 2048
	maxGroupWeight   = 64 << 10
)

// weight is how much work it is to merge a block, in terms of one version that comes or goes.
func (a *arrival) weight() int {
	if a.block == nil {
		return blockWeight
	}
	d := a.block.delta
	return blockWeight + len(d.elements) + len(d.tombstones) + len(d.claims)
}

func weightOf(group []*arrival) (weight int) {
	for _, a := range group {
		weight += a.weight()
	}
	return weight
}

// adaptPace learns from a commit of some weight. One that might have done more says nothing
// about how long that takes.
func (m *merger) adaptPace(c *commit, weight int) {
	if weight >= m.pace.now || c.dag.looksLeft <= 0 || c.held > paceGoal {
		m.pace.adapt(c.held)
	}
}

// blockWeight is that of the block itself: its mark, and those of what it links to.
const blockWeight = 4

func newMerger(ctx context.Context, c *committer, f *fetcher, classes *sizeClasses, log logging.StandardLogger) *merger {
	return &merger{
		committer:   c,
		ctx:         ctx,
		log:         log,
		fetcher:     f,
		classes:     classes,
		pace:        pace{now: firstGroupWeight, least: minGroupWeight, most: maxGroupWeight},
		cascadeStep: maxSpread,
		refusals:    boundedLog{write: log.Warnf, what: "refusing a block"},
	}
}

func (m *merger) run() {
	defer m.readers.Wait()
	for m.ctx.Err() == nil {
		select {
		case a := <-m.classes.small.queue:
			m.mergeAll(m.collect(a))
		case a := <-m.classes.large.queue:
			m.mergeAll(m.collect(a))
			m.mergeSmall()
		case <-m.fetcher.unread:
			if err := m.fetcher.resume(m.ctx, m.committer); err != nil && m.ctx.Err() == nil {
				m.log.Warnf("reading the queue: %s", err)
				time.AfterFunc(retryPause, m.fetcher.unread.ring)
			}
		case <-m.committer.cascade:
			m.continueCascade()
			m.mergeSmall()
		case <-m.committer.recheck:
			m.recheckStore()
		case <-m.ctx.Done():
		}
		m.refreshWhenIdle()
	}
}

// recheckStore has the committer look at the store after a write that failed, with
// an empty commit, again and again until it succeeds.
func (m *merger) recheckStore() {
	if err := m.committer.once(m.ctx, nil, func(*commit) error { return nil }); err != nil && m.ctx.Err() == nil {
		m.log.Errorf("looking at the store after a write that failed: %s", err)
		time.AfterFunc(retryPause, m.committer.recheck.ring)
	}
}

// continueCascade has one commit tell parents of blocks that earlier ones have left. After
// a failure it pauses: the store may be read and not written. Then it takes them up one
// by one at first, and that whose parents cannot be told last: it is to keep no others out.
func (m *merger) continueCascade() {
	if time.Since(m.cascadeFailed) < retryPause {
		return
	}
	var c *commit
	err := m.committer.once(m.ctx, nil, func(now *commit) error {
		c = now
		c.dag.looksLeft = min(c.dag.looksLeft, m.pace.now)
		return c.dag.takeUp(m.ctx, m.committer.someUntoldInTurn(m.cascadeStep))
	})
	switch {
	case err == nil:
		m.adaptPace(c, 0)
		m.cascadeStep = min(2*m.cascadeStep, maxSpread)
	case m.ctx.Err() == nil:
		m.log.Errorf("telling of settled blocks: %s", err)
		m.cascadeStep, m.cascadeFailed = 1, time.Now()
		time.AfterFunc(retryPause, m.committer.cascade.ring)
	}
}

// mergeSmall lets the small blocks pass that came during a large commit.
func (m *merger) mergeSmall() {
	select {
	case a := <-m.classes.small.queue:
		m.mergeAll(m.collect(a))
	default:
	}
}

// collect takes along what else has arrived in the same size class.
func (m *merger) collect(first *arrival) []*arrival {
	m.committer.hooks.waitWhileFull()
	group, size, weight := []*arrival{first}, first.size(), first.weight()
	for len(group) < maxGroupBlocks && size < maxGroupSize && weight < m.pace.now {
		select {
		case a := <-first.room.class.queue:
			group = append(group, a)
			size, weight = size+a.size(), weight+a.weight()
		default:
			return group
		}
	}
	return group
}

// mergeAll commits a group and frees its room. If one of its blocks is at fault, it
// commits them one by one: none is to keep others out. While the store is at fault,
// that would only be as many commits that fail.
func (m *merger) mergeAll(group []*arrival) {
	rest := m.keep(group)
	for step := len(rest); len(rest) > 0; {
		now := rest[:min(step, len(rest))]
		err := m.commitGroup(now)
		switch {
		case err == nil:
			rest = rest[len(now):]
		case len(rest) == 1 || !m.isOfOneBlock(err):
			m.fail(rest, err)
			rest = nil
		case len(now) > 1:
			step = 1
		default:
			m.fail(now, err)
			rest = rest[1:]
		}
	}
	m.fetcher.releaseAll(group)
}

// keep gives the DAG service the blocks that it does not have, because they came with
// their announcements: a head must not be one of them. If it does not take them, they
// are fetched later, which stores them as well, and keep returns the others.
func (m *merger) keep(group []*arrival) []*arrival {
	var blocks []*block
	var inline, others []*arrival
	for _, a := range group {
		if a.inline && a.block != nil {
			inline, blocks = append(inline, a), append(blocks, a.block)
		} else {
			others = append(others, a)
		}
	}
	if err := m.committer.blocks.keep(m.ctx, blocks); err != nil {
		m.fail(inline, err)
		return others
	}
	return group
}

// isOfOneBlock reports whether a commit failed through one of its blocks. Errors of
// stores do not say so: one may refuse a row, or have damaged another. If it takes
// another commit, it was the block.
func (m *merger) isOfOneBlock(err error) bool {
	return errors.As(err, new(missingValues)) || m.committer.probe(m.ctx) == nil
}

// fail has blocks fetched again that could not be merged: after a while, or, if one
// misses values, once these are here.
func (m *merger) fail(group []*arrival, err error) {
	var missing missingValues
	switch {
	case m.ctx.Err() != nil: // closing
		return
	case errors.As(err, &missing):
		m.mergeLater(group[0], missing)
		return
	}
	m.log.Errorf("merging %d blocks, such as %s: %s", len(group), group[0].missing.id.Cid(), err)
	for _, a := range group {
		m.fetcher.fail(a.missing, err)
	}
}

// mergeLater is for a block that uncovers losing versions whose values are not here.
// Some are read, and the block is brought again, until none is missing.
func (m *merger) mergeLater(a *arrival, missing missingValues) {
	known := a.missing.values
	err := m.mergePart(a, missing.keys())
	if err == nil && !m.fetcher.reserveValues(a.missing) {
		err = missing
	}
	if err != nil {
		m.fetcher.fail(a.missing, err)
		return
	}
	m.readers.Go(func() { m.readValues(a.missing, missing, known) })
}

// mergePart commits the tombstones of those keys of a block whose values have been
// read, so that no commit has to hold the values of all. These tombstones are right
// without the others, and change nothing when the block is merged. From then on the
// block is queued: it must be merged some time, though it was only announced.
func (m *merger) mergePart(a *arrival, needed map[string]bool) error {
	ready := make(map[string]bool)
	for n := range a.missing.values {
		ready[n.key] = !needed[n.key]
	}
	var part []*pb.Element
	for _, t := range a.block.delta.tombstones {
		if ready[t.GetKey()] {
			part = append(part, t)
		}
	}
	if len(part) == 0 {
		return nil
	}
	err := m.committer.once(m.ctx, a.missing.values, func(c *commit) error {
		w := wanted{id: a.missing.id, height: a.block.delta.priority, v0: a.missing.v0}
		return c.mergePart(context.WithoutCancel(m.ctx), w, part)
	})
	if err == nil {
		m.fetcher.hasRow(a.missing)
	}
	return err
}

// readValues reads losing versions that a block uncovers, and has the block brought
// again. It is not kept meanwhile: that may take long.
func (m *merger) readValues(b *missingBlock, missing missingValues, known map[versionName]*loser) {
	defer m.committer.blocks.valueReads.begin()()
	values, err := m.committer.blocks.someValues(m.ctx, missing, known, m.committer.uncovers)
	if err != nil {
		m.log.Warnf("merging block %s needs an older one: %s", b.id.Cid(), err)
		m.fetcher.fail(b, err)
		return
	}
	m.fetcher.retry(b, values)
}

// commitGroup commits a group in one piece and tells the fetcher what is missing.
func (m *merger) commitGroup(group []*arrival) error {
	ahead, err := m.committer.readAhead(m.ctx, keysOf(group))
	if err != nil {
		return err
	}
	var c *commit
	err = m.committer.once(m.ctx, valuesOf(group), func(now *commit) error {
		c = now
		now.use(ahead)
		now.dag.looksLeft = min(now.dag.looksLeft, m.pace.now)
		return m.fill(context.WithoutCancel(m.ctx), now, group)
	})
	if err != nil {
		return err
	}
	m.adaptPace(c, weightOf(group))
	children, missing := make(map[blockID][]wanted), make([]blockID, 0, len(c.dag.wants))
	for _, w := range c.dag.wants {
		if c.dag.queue[w.id] != nil { // or else it is among the group
			children[w.parent], missing = append(children[w.parent], w), append(missing, w.id)
		}
	}
	m.fetcher.merged(group, children)
	if err := m.fetcher.passOver(m.ctx, m.committer.store, m.committer.frontier.checkpoints(), missing); err != nil {
		m.log.Warnf("looking for missing blocks in covers: %s", err)
	}
	return nil
}

func (m *merger) fill(ctx context.Context, c *commit, group []*arrival) error {
	for _, a := range group {
		if err := m.addArrival(ctx, c, a); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) addArrival(ctx context.Context, c *commit, a *arrival) error {
	if m.fetcher.isRemoved(a.missing) { // it has been purged since it was fetched
		return nil
	}
	if hidden, err := c.dag.hides(ctx, a.missing.id); err != nil || hidden {
		m.fetcher.noteInVain(a)
		return err
	}
	if a.err == nil {
		a.block.queued = a.missing.queued
		return c.merge(ctx, a.block)
	}
	fresh, err := c.refuse(ctx, &block{id: a.missing.id, queued: a.missing.queued})
	if fresh {
		m.refusals.report(a.err)
	}
	return err
}

// keysOf returns the keys that the blocks of a group change.
func keysOf(group []*arrival) (keys []string) {
	for _, a := range group {
		if a.block == nil {
			continue
		}
		keys = appendKeys(keys, a.block.delta.tombstones)
		keys = appendKeys(keys, a.block.delta.elements)
		keys = appendKeys(keys, a.block.delta.claims)
	}
	return keys
}

func appendKeys(keys []string, elements []*pb.Element) []string {
	for _, e := range elements {
		keys = append(keys, e.GetKey())
	}
	return keys
}

// valuesOf joins the values that the blocks of a group have waited for.
func valuesOf(group []*arrival) map[versionName]*loser {
	if len(group) == 1 {
		return group[0].missing.values
	}
	all := make(map[versionName]*loser)
	for _, a := range group {
		maps.Copy(all, a.missing.values)
	}
	return all
}

// refreshWhenIdle looks after what can wait until nothing is missing.
func (m *merger) refreshWhenIdle() {
	if !m.classes.empty() || m.fetcher.len() > 0 || m.committer.acquire(m.ctx) != nil {
		return
	}
	defer m.committer.release()
	if err := m.committer.refreshInTurn(context.WithoutCancel(m.ctx)); err != nil {
		m.log.Warnf("looking at the store: %s", err)
	}
}
