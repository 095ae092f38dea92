package crdt

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// Checkpoints of the unnamed DAG are made on their own whenever it has grown by so many
// blocks (Options.CheckpointEvery). All replicas come to that at about the same time, so
// each waits for a random while first, and once more if it knows of one that another has
// made. If it holds a checkpoint of another one by then, it has not grown by enough any more.

// growth is how many blocks of the unnamed DAG there are above its checkpoints, as far as
// the heights tell: there are more where replicas have written at the same time.
func (f *frontier) growth() int64 {
	heads, _ := f.tips()
	height := uint64(0)
	for _, cp := range f.checkpoints().held().of("") {
		height = max(height, cp.tip.Height)
	}
	return int64(min(max(heads.maxHeight(""), height)-height, maxPriority))
}

// countInTurn counts blocks of the unnamed DAG that have become complete. It reports
// whether a checkpoint is due for them.
func (c *committer) countInTurn(now *commit, blocks int64) (due bool) {
	if slices.Contains(now.dag.begunAnew, "") { // one is held that was not
		c.grown.Store(c.frontier.growth())
		return false
	}
	grown := c.grown.Add(blocks)
	return c.checkpointEvery > 0 && grown >= c.checkpointEvery && grown-blocks < c.checkpointEvery
}

// makeDue makes a checkpoint if one is due, and has been for its random while.
func (c *maker) makeDue(ctx context.Context) (did bool, err error) {
	switch {
	case !c.isDue():
		c.due, c.deferred = time.Time{}, false
		return false, nil
	case c.due.IsZero():
		c.due = time.Now().Add(rand.N(c.opts.RebroadcastInterval/4 + 1))
		return c.chores.isTime(c.due), nil
	case !c.chores.isTime(c.due):
		return false, nil
	case !c.deferred && c.committer.frontier.checkpoints().anyToCome(""):
		c.due, c.deferred = time.Now().Add(c.opts.RebroadcastInterval), true
		return c.chores.isTime(c.due), nil
	}
	c.due, c.deferred = time.Time{}, false
	err = c.do(ctx, "", func(ctx context.Context) error {
		_, err := c.checkpointDAG(ctx, "")
		return err
	})
	if err != nil && ctx.Err() == nil {
		c.log.Warnf("no checkpoint is made before %d more blocks have come: %s", c.opts.CheckpointEvery, err)
		c.committer.grown.Store(0) // what stands in the way will stand there for a while
	}
	return err == nil, ctx.Err()
}

func (c *maker) isDue() bool {
	every := int64(c.opts.CheckpointEvery)
	return every > 0 && c.committer.grown.Load() >= every
}

// anyToCome reports whether there is a checkpoint of a DAG that may come to be held, above
// all that are.
func (all checkpoints) anyToCome(dagName string) bool {
	held, coming := uint64(0), uint64(0)
	for _, cp := range all.of(dagName) {
		switch {
		case cp.state.held():
			held = max(held, cp.tip.Height)
		case cp.state <= checkpointTaking && !cp.disputed:
			coming = max(coming, cp.tip.Height)
		}
	}
	return coming > held
}
