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
// Where what was taken may be wrong, a replica waits for longer.

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
	return c.checkpointEvery > 0 && grown/c.checkpointEvery > (grown-blocks)/c.checkpointEvery
}

// makeDue makes a checkpoint if one is due, and has been for its random while.
func (m *maker) makeDue(ctx context.Context) (did bool, err error) {
	switch {
	case !m.isDue():
		m.due, m.deferred = time.Time{}, false
		return false, nil
	case m.due.IsZero():
		m.due = time.Now().Add(rand.N(m.opts.RebroadcastInterval/4 + 1))
		return m.chores.isTime(m.due), nil
	case !m.chores.isTime(m.due):
		return false, nil
	case !m.deferred && m.committer.frontier.checkpoints().anyToCome(""):
		m.due, m.deferred = time.Now().Add(m.opts.RebroadcastInterval), true
		return m.chores.isTime(m.due), nil
	}
	m.due, m.deferred = time.Time{}, false
	err = m.do(ctx, "", func(ctx context.Context) error {
		_, err := m.checkpointDAG(ctx, "")
		return err
	})
	if err != nil && ctx.Err() == nil {
		m.log.Warnf("no checkpoint is made before %d more blocks have come: %s", m.opts.CheckpointEvery, err)
		m.committer.grown.Store(0) // what stands in the way will stand there for a while
	}
	return err == nil, ctx.Err()
}

func (m *maker) isDue() bool {
	every := int64(m.opts.CheckpointEvery)
	if grown := m.committer.grown.Load(); every == 0 || grown < every {
		return false
	} else if m.committer.frontier.checkpoints().doubtful("") {
		return grown >= othersFirst*every
	}
	return true
}

// othersFirst is how many times as many blocks a replica lets come as a rule before it makes
// a checkpoint on one that it took and that may be wrong. If others make some, these are the
// newest most of the time, which newcomers take. They may be liars: so one is made in the end.
const othersFirst = 4

// doubtful reports whether what was taken of a DAG may be wrong: a checkpoint contradicts it
// that none covers yet.
func (all checkpoints) doubtful(dagName string) bool {
	all = all.of(dagName)
	return len(all.in(checkpointVoid)) > 0 && len(all.held().taken()) > 0
}

// anyToCome reports whether there is a checkpoint of a DAG that may come to be held, above
// all that are.
func (all checkpoints) anyToCome(dagName string) bool {
	held, coming := uint64(0), uint64(0)
	for _, cp := range all.of(dagName) {
		switch {
		case cp.state.held():
			held = max(held, cp.tip.Height)
		case cp.state <= checkpointTaking:
			coming = max(coming, cp.tip.Height)
		}
	}
	return coming > held
}
