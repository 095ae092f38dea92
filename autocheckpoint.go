package crdt

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Checkpoints of the unnamed DAG are made on their own whenever it has grown by so many
// blocks (Options.CheckpointEvery). All replicas come to that at about the same time, and one
// is enough. So each waits for a random while, and leaves it to another one that it has heard of
// by then, or by when its own would be finished. If it holds that one before long, it has not
// grown by enough any more.

// A growthCount is how many blocks of the unnamed DAG there are above its checkpoints.
type growthCount struct {
	blocks atomic.Int64
	own    atomic.Int64 // of these were written here since the start
}

func (g *growthCount) set(blocks int64) {
	g.own.Store(0)
	g.blocks.Store(blocks)
}

// growth is that number as far as the heights tell: there are more where replicas have
// written at the same time.
func (f *frontier) growth() int64 {
	heads, _ := f.tips()
	height := uint64(0)
	for _, cp := range f.checkpoints().held().of("") {
		height = max(height, cp.tip.Height)
	}
	return int64(min(max(heads.maxHeight(""), height)-height, maxPriority))
}

// countInTurn counts blocks of the unnamed DAG that have become complete. It reports
// whether a checkpoint is due for them, or is due sooner.
func (c *committer) countInTurn(now *commit, blocks int64) (due bool) {
	if slices.Contains(now.dag.begunAnew, "") { // one is held that was not
		c.grown.set(c.frontier.growth())
		return false
	}
	for _, b := range now.made {
		if b.tip().DAGName == "" {
			c.grown.own.Add(1)
		}
	}
	grown := c.grown.blocks.Add(blocks)
	return c.checkpointEvery > 0 && grown/c.checkpointEvery > (grown-blocks)/c.checkpointEvery
}

// A dueCheckpoint is one that is due, and says when this replica makes it.
type dueCheckpoint struct {
	since time.Time // when it came to be due; zero: it is not
	share float64   // of the longest wait, at random
	left  time.Time // until when it is left to a peer; zero: it has not been
}

// makeDue makes a checkpoint if one is due, and has been for its random while.
func (m *maker) makeDue(ctx context.Context) (did bool, err error) {
	if !m.isDue() {
		m.due = dueCheckpoint{}
		return false, nil
	}
	if m.due.since.IsZero() {
		m.due = dueCheckpoint{since: time.Now(), share: randomShare()}
	}
	if !m.chores.isTime(m.due.since.Add(m.wait())) || !m.chores.isTime(m.due.left) {
		return false, nil
	}
	err = m.do(ctx, "", func(ctx context.Context) error {
		_, err := m.checkpointDAG(ctx, "", m.mayLeave)
		return err
	})
	switch {
	case errors.Is(err, errLeftToPeer):
		m.due.left = time.Now().Add(m.opts.RebroadcastInterval)
		return m.chores.isTime(m.due.left), nil
	case err != nil && ctx.Err() == nil:
		m.log.Warnf("no checkpoint is made before %d more blocks have come: %s", m.opts.CheckpointEvery, err)
		m.committer.grown.set(0) // what stands in the way will stand there for a while
	}
	m.due = dueCheckpoint{}
	return err == nil, ctx.Err()
}

var errLeftToPeer = errors.New("crdt: another replica has made a checkpoint meanwhile")

func (m *maker) isDue() bool {
	every, grown := int64(m.opts.CheckpointEvery), m.committer.grown.blocks.Load()
	if every == 0 || grown < every {
		return false
	}
	return grown >= othersFirst*every || !m.committer.frontier.checkpoints().doubtful("")
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

// mayLeave reports whether a checkpoint that is due is left to a peer that has made one:
// once, as that one may turn out void, or not be had.
func (m *maker) mayLeave() bool {
	return m.due.left.IsZero() && m.committer.frontier.checkpoints().anyToCome("")
}

// randomShare is distributed like the timers of NORM (RFC 5740, section 3.2): of any number of
// replicas up to some hundreds, few come first, and the others some time after them. If it
// were even, a twentieth of the time would pass between those of twenty, which may be
// less than it takes to make a checkpoint and hear of it.
func randomShare() float64 {
	const steepness = 5.6 // ln(100) + 1
	return math.Log1p(rand.Float64()*math.Expm1(steepness)) / steepness
}

// wait is for how long a replica waits from when a checkpoint is due. Who has written all
// that there is to be covered need not wait for others, and where much is written, more than a
// checkpoint each RebroadcastInterval may be wanted.
func (m *maker) wait() time.Duration {
	blocks, own := m.committer.grown.blocks.Load(), m.committer.grown.own.Load()
	others := float64(max(blocks-own, 0)) / float64(max(blocks, 1))
	speed := float64(blocks) / float64(m.opts.CheckpointEvery)
	return time.Duration(m.due.share * others / speed * float64(m.opts.RebroadcastInterval/2))
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
