package crdt

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
)

// The merger commits the blocks that were fetched or announced inline, several
// at a time when they come faster than they can be committed one by one. It is
// one goroutine.
type merger struct {
	*committer
	ctx      context.Context
	log      logging.StandardLogger
	walker   *walker
	arrivals chan *arrival
	parked   sync.WaitGroup // arrivals that wait for values
}

// Limits of one commit of fetched blocks.
const (
	maxGroupBlocks = 256
	maxGroupBytes  = 4 << 20
)

func (m *merger) run() {
	defer m.parked.Wait()
	for m.ctx.Err() == nil {
		select {
		case a := <-m.arrivals:
			m.hooks.waitForRoom()
			m.mergeAll(m.collect(a))
		case <-m.walker.again:
			if err := m.walker.resume(m.ctx, m.store); err != nil {
				m.log.Warnf("reading the queue: %s", err)
			}
		case <-m.ctx.Done():
		}
		m.rest()
	}
}

// collect takes along what else has arrived.
func (m *merger) collect(first *arrival) []*arrival {
	group, size := []*arrival{first}, first.size()
	for len(group) < maxGroupBlocks && size < maxGroupBytes {
		select {
		case a := <-m.arrivals:
			group = append(group, a)
			size += a.size()
		default:
			return group
		}
	}
	return group
}

func (a *arrival) size() int {
	if a.block == nil {
		return 0
	}
	return len(a.block.raw)
}

// mergeAll commits a group, or, when that fails, its blocks one by one, so that
// one that cannot be merged does not keep the others out.
func (m *merger) mergeAll(group []*arrival) {
	err := m.merge(group)
	if err == nil {
		return
	}
	if len(group) > 1 {
		for _, a := range group {
			m.mergeAll([]*arrival{a})
		}
		return
	}
	var missing missingValues
	switch {
	case m.ctx.Err() != nil: // closing; it will be fetched again
	case errors.As(err, &missing):
		m.parked.Go(func() { m.awaitValues(group[0], missing) })
	default:
		m.log.Errorf("merging block %s: %s", group[0].job.id.Cid(), err)
		m.walker.fail(group[0].job, err)
	}
}

// awaitValues reads the losing versions that a block uncovers, and hands the
// block back.
func (m *merger) awaitValues(a *arrival, missing missingValues) {
	values, err := m.blocks.values(m.ctx, missing, a.values)
	if err != nil {
		m.log.Warnf("merging block %s needs an older one: %s", a.job.id.Cid(), err)
		m.walker.fail(a.job, err)
		return
	}
	a.values = values
	select {
	case m.arrivals <- a:
	case <-m.ctx.Done():
	}
}

// merge commits a group in one piece and tells the walker what is missing.
func (m *merger) merge(group []*arrival) error {
	if err := m.blocks.keep(m.ctx, inlineOf(group)); err != nil {
		return err
	}
	var c *commit
	err := m.once(m.ctx, valuesOf(group), func(now *commit) error {
		c = now
		return m.fill(context.WithoutCancel(m.ctx), now, group)
	})
	if err != nil {
		return err
	}
	children := make(map[blockID][]wanted)
	for _, w := range c.dag.wanted() {
		children[w.parent] = append(children[w.parent], w)
	}
	for _, a := range group {
		// First the children: the walk ends with its last job.
		m.walker.want(a.job.walk, children[a.job.id])
		m.walker.merged(a.job)
	}
	return nil
}

func (m *merger) fill(ctx context.Context, c *commit, group []*arrival) error {
	if err := c.set.loadAhead(ctx, keysOf(group)); err != nil {
		return err
	}
	for _, a := range group {
		if err := m.add(ctx, c, a); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) add(ctx context.Context, c *commit, a *arrival) error {
	if a.err == nil {
		a.block.queued = a.job.queued
		return c.merge(ctx, a.block)
	}
	fresh, err := c.refuse(ctx, &block{id: a.job.id, queued: a.job.queued})
	if fresh {
		m.log.Warnf("refusing a block: %s", a.err)
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
	}
	return keys
}

func appendKeys(keys []string, elements []*pb.Element) []string {
	for _, e := range elements {
		keys = append(keys, e.GetKey())
	}
	return keys
}

// inlineOf returns the blocks that the DAG service does not have, because they
// came with their announcements. A head must not be one of them.
func inlineOf(group []*arrival) []*block {
	var blocks []*block
	for _, a := range group {
		if a.inline && a.block != nil {
			blocks = append(blocks, a.block)
		}
	}
	return blocks
}

// valuesOf joins the values that the blocks of a group have waited for.
func valuesOf(group []*arrival) map[versionName]*loser {
	if len(group) == 1 {
		return group[0].values
	}
	all := make(map[versionName]*loser)
	for _, a := range group {
		maps.Copy(all, a.values)
	}
	return all
}

// rest looks after what can wait until nothing is missing.
func (m *merger) rest() {
	if len(m.arrivals) > 0 || m.walker.len() > 0 || m.acquire(m.ctx) != nil {
		return
	}
	defer m.release()
	if err := m.lookLocked(context.WithoutCancel(m.ctx)); err != nil {
		m.log.Warnf("looking at the store: %s", err)
	}
}
