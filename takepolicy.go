package crdt

import (
	"context"
	"errors"
	"maps"
	"time"
)

// A replica takes a checkpoint where that is likely to be less to fetch than the blocks
// below it, or where these cannot be had. If it has nothing of the DAG, or much less than
// the checkpoint, it wants it from when it is merged, and fetches no block that is lower
// meanwhile. Else it walks down first. Options.WalkHistory has it always walk.

// firstState is that of a checkpoint that is being merged.
func (c *commit) firstState(cp *checkpoint) checkpointState {
	if c.committer.walks || c.set.mayHaveClaims || !cp.isFarAbove(c.dag.heads.now) {
		return checkpointSeen
	}
	wanted := 0
	for _, other := range c.checkpoints.now {
		if other.state != checkpointWanted && other.state != checkpointTaking {
			continue
		}
		if wanted++; wanted == maxWanted || other.tip.DAGName == cp.tip.DAGName {
			return checkpointSeen
		}
	}
	return checkpointWanted
}

// maxWanted is how many checkpoints are wanted at a time, of different DAGs. Others wait
// among those that have been seen, of which there is a limit, too.
const maxWanted = 16

// isFarAbove reports whether there are likely to be more blocks below a checkpoint and
// above the heads of its DAG than entries in its snapshot.
func (cp *checkpoint) isFarAbove(heads tips) bool {
	top := heads.maxHeight(cp.tip.DAGName)
	return top == 0 || cp.tip.Height > top && cp.tip.Height-top > cp.snapshot.entries
}

// A taker takes those of others. Its fields belong to the goroutine.
type taker struct {
	*checkpointJobs
	fetcher     *fetcher
	isWaitedFor func() bool // whether others wait for it
	repairer    *repairer
	putOff      map[blockID]putOff // checkpoints that could not be taken
	anyNext     bool               // the next one may be any, not the highest alone
}

// takeJob goes on with taking a checkpoint, or begins to take one.
func (t *taker) takeJob(ctx context.Context) (did bool, err error) {
	cp, err := t.nextToTake(ctx)
	if err != nil || cp == nil {
		return false, err
	}
	return t.doChore(ctx, cp.tip.DAGName, func(ctx context.Context) error { return t.take(ctx, cp.id) })
}

// nextToTake returns the checkpoint to take now, or nil: first those that have been begun,
// and then the highest. It sees to it that it is called again while there are others.
func (t *taker) nextToTake(ctx context.Context) (next *checkpoint, err error) {
	for _, cp := range t.committer.frontier.checkpoints() {
		may := cp.state == checkpointTold || cp.state == checkpointTaking || cp.state == checkpointWanted
		if cp.state == checkpointSeen {
			if may, err = t.mayTake(ctx, cp); err != nil {
				return nil, err
			}
		}
		if may && (next == nil || t.isMoreUrgent(cp, next)) {
			next = cp
		}
	}
	return next, nil
}

// isToTake reports whether any may be taken now.
func (t *taker) isToTake() bool {
	next, err := t.nextToTake(t.chores.ctx)
	return next != nil && err == nil
}

// isMoreUrgent compares checkpoints that are to be taken. After one that could not be taken
// any will do, once: liars can always be higher, and below an honest one there may be many
// that nobody holds any more.
func (t *taker) isMoreUrgent(cp, o *checkpoint) bool {
	if cp.state != o.state {
		return cp.state > o.state
	}
	return !t.anyNext && cp.tip.Height > o.tip.Height
}

// mayTake reports whether there is a reason to take a checkpoint that has been merged and
// not been judged.
func (t *taker) mayTake(ctx context.Context, cp *checkpoint) (bool, error) {
	m, err := t.store.mark(ctx, cp.id)
	if err != nil || t.opts.WalkHistory {
		return false, err
	}
	switch {
	case m.state == pending:
		t.chores.isTime(time.Now().Add(t.opts.RebroadcastInterval)) // look again: blocks may turn out not to be had
	case m.state != complete || !t.repairer.stuck.Load():
		return false, nil
	}
	if time.Now().Before(t.putOff[cp.id].until) {
		return false, nil
	}
	heads, _ := t.committer.frontier.tips()
	return m.state == complete || cp.isFarAbove(heads) || t.fetcher.asksInVain(), nil
}

// A putOff is how often a checkpoint could not be taken, and until when that is not tried
// again.
type putOff struct {
	times int
	until time.Time
}

// maxPutOff is how often the pause doubles.
const maxPutOff = 6

// putOffTaking has a checkpoint not be taken for a while. The pause doubles, unless it was
// others that did not wait.
func (t *taker) putOffTaking(id blockID, why error) {
	known := t.committer.frontier.checkpoints()
	maps.DeleteFunc(t.putOff, func(id blockID, _ putOff) bool { return known[id] == nil })
	p := t.putOff[id]
	p.until = time.Now().Add(t.opts.RebroadcastInterval << p.times)
	if !errors.Is(why, errWaitedFor) {
		p.times = min(p.times+1, maxPutOff)
		t.anyNext = !t.anyNext
	}
	setIn(&t.putOff, id, p)
}

// hiddenBy reports whether a block is in the cover of a checkpoint that is being taken, or
// purged: it is not fetched and not merged, and its queue row stays.
func (s *rowStore) hiddenBy(ctx context.Context, all checkpoints, id blockID) (bool, error) {
	for _, cp := range all {
		if !cp.state.hides() {
			continue
		}
		if in, err := s.inSegments(ctx, cp.segments, id); in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// passOver has those of some missing blocks not fetched that a checkpoint hides or covers.
// A take does so once for all that are known to be missing, and whoever has the fetcher know
// of more does so afterwards: what was missing may have come to be hidden meanwhile.
func (f *fetcher) passOver(ctx context.Context, store *rowStore, known checkpoints, missing []blockID) error {
	if len(known) == 0 {
		return nil
	}
	var over []blockID
	for _, id := range missing {
		in, err := store.hiddenBy(ctx, known, id)
		if err == nil && !in {
			in, err = store.covered(ctx, id)
		}
		if err != nil {
			return err
		}
		if in {
			over = append(over, id)
		}
	}
	f.remove(nil, over)
	return nil
}

// withhold reports whether a missing block below one of a DAG is not to be fetched yet, as
// a checkpoint that is higher is wanted.
func (all checkpoints) withhold(w wanted, dagName string) bool {
	for _, cp := range all {
		if cp.state == checkpointWanted && cp.tip.DAGName == dagName && w.height < cp.tip.Height {
			return true
		}
	}
	return false
}

// takingHeight is the height of the highest checkpoint that is being taken. Local writes
// are higher, of whatever DAG: what it is going to add must not win over them.
func (all checkpoints) takingHeight() (height uint64) {
	for _, cp := range all {
		if cp.state == checkpointTaking {
			height = max(height, cp.tip.Height)
		}
	}
	return height
}
