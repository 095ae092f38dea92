package crdt

import (
	"context"
	"errors"
	"fmt"
	"time"

	cid "github.com/ipfs/go-cid"
)

// To take a checkpoint is to merge its snapshot in the place of all blocks that it
// covers, which need not be fetched then. It comes to the same as merging each of them.
//
//	Seen, Wanted   All pages are fetched and checked, and the segments of the cover become
//	  |            rows that nobody looks at yet: nothing has changed (takeprepare.go).
//	  | begin
//	  v
//	Taking         No block of the cover is fetched or merged: one that was merged after
//	  |            the entries could bring back what the cover has removed. The entries are
//	  |            merged, and then those versions go that the cover has removed.
//	  | finish
//	  v
//	Told           The cover counts as marks. Those that wait for its blocks are told, and
//	  |            rows go that nobody needs any more (taketell.go).
//	  v
//	Held
//
// Each step is a commit, or many of bounded size, with others in between. All can be made
// again without harm. Before the last arrow but one a take may be left: what it has added stays, as the
// blocks add the same, and is not added again if the take is begun once more.
//
// So a version may be here before its block, during a take and after one that was left.
// Such a version is stored with its value, and with keepValue set, which says that its
// block need not be here.

// What one commit of a take adds and removes at most: writes wait for it.
const (
	minTakenEntries   = 64
	firstTakenEntries = 256
	maxTakenEntries   = 2048
	maxTakenBytes     = 512 << 10 // of keys and values
	maxDead           = 256       // versions: each may uncover a value that must be read from its block
)

// errLeft says why a checkpoint is not taken, or not taken any further, for now.
var errLeft = errors.New("crdt: the checkpoint cannot be taken now")

// take goes on with taking a checkpoint, from wherever it is. It returns nil when there
// is nothing more to do now: it is held, or void, or to be tried again some time.
func (t *taker) take(ctx context.Context, id blockID) error {
	err := t.takeOn(ctx, id)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errBadSnapshot):
		return t.avoid(ctx, id, err)
	case errors.Is(err, errLeft):
		return t.leave(ctx, id, err)
	}
	return err
}

func (t *taker) takeOn(ctx context.Context, id blockID) error {
	if cp := t.checkpoint(id); t.opts.WalkHistory && cp != nil && !cp.state.held() {
		return fmt.Errorf("%w: Options.WalkHistory is set, and was not before", errLeft)
	}
	if cp := t.checkpoint(id); cp != nil && (cp.state == checkpointSeen || cp.state == checkpointWanted) {
		if err := t.beginTake(ctx, cp); err != nil {
			return err
		}
	}
	if cp := t.checkpoint(id); cp != nil && cp.state == checkpointTaking {
		if err := t.mergeSnapshot(ctx, cp); err != nil {
			return err
		}
		t.log.Infof("checkpoint %s of DAG %q was taken: %s", cp.id.Cid(), cp.tip.DAGName, &cp.snapshot)
	}
	if cp := t.checkpoint(id); cp != nil && cp.state == checkpointTold {
		return t.tellCover(ctx, cp)
	}
	return nil
}

// beginTake lets no block of a checkpoint's cover be merged any more, once its snapshot has
// been checked.
func (t *taker) beginTake(ctx context.Context, cp *checkpoint) error {
	gaps := t.repairer.stuck.Load()
	err := t.update(ctx, cp.id, func(now *commit, cp *checkpoint) error { return now.canTake(ctx, cp, gaps) })
	if err != nil {
		return err
	}
	segments, err := t.prepare(ctx, cp)
	if err != nil {
		return err
	}
	if err := t.committer.raiseFormat(ctx); err != nil {
		return err
	}
	err = t.update(ctx, cp.id, func(now *commit, cp *checkpoint) error {
		if err := now.canTake(ctx, cp, gaps); err != nil {
			return err
		}
		now.committer.mayHaveEarly = true
		any, err := t.store.hasAny(ctx, t.store.keys.records)
		cp.state, cp.segments, cp.removals = checkpointTaking, segments, any
		now.checkpoints.set(cp)
		return err
	})
	t.fetcher.unread.ring() // what has been withheld, and is not covered
	return err
}

// canTake returns errLeft if a checkpoint is not to be taken. One that is complete is
// checked instead, but where the store has gaps that cannot be filled otherwise.
func (c *commit) canTake(ctx context.Context, cp *checkpoint, gaps bool) error {
	if c.set.mayHaveClaims {
		return fmt.Errorf("%w: the store has claims of summaries", errLeft)
	}
	for id, other := range c.checkpoints.now {
		if other.state == checkpointTaking && other.tip.DAGName == cp.tip.DAGName {
			return fmt.Errorf("%w: %s is being taken", errLeft, id.Cid())
		}
	}
	m, err := c.dag.mark(ctx, cp.id)
	switch {
	case err != nil:
		return err
	case m.state == pending, m.state == complete && gaps:
		return nil
	case m.state == complete:
		return fmt.Errorf("%w: all that it covers has been merged", errLeft)
	}
	return fmt.Errorf("%w: it is above a block that was refused", errLeft)
}

// mergeSnapshot merges the snapshot of a checkpoint that is being taken.
func (t *taker) mergeSnapshot(ctx context.Context, cp *checkpoint) error {
	if err := t.fetcher.passOver(ctx, t.store, t.committer.frontier.checkpoints(), t.fetcher.ids()); err != nil {
		return err
	}
	some, err := t.surveyCover(ctx, cp)
	if err != nil {
		return err
	}
	if err := t.addEntries(ctx, cp, some); err != nil {
		return err
	}
	if cp.removals {
		if err := t.removeDead(ctx, cp); err != nil {
			return err
		}
	}
	return t.finishTake(ctx, cp)
}

// surveyCover reports whether any block of the cover has been merged. If one was refused,
// or is above one that was, replicas that walk will never have its effect, and the
// checkpoint is left.
func (t *taker) surveyCover(ctx context.Context, cp *checkpoint) (some bool, err error) {
	for _, other := range t.committer.frontier.checkpoints() {
		some = some || other.state.held() && other.tip.DAGName == cp.tip.DAGName
	}
	for r, err := range t.store.blockRows(ctx, t.store.keys.blocks, false) {
		if err != nil {
			return false, err
		}
		bad := len(r.value) > 0 && markState(r.value[0]&^neverHeadBit) != pending
		if some && !bad {
			continue
		}
		in, err := t.store.inSegments(ctx, cp.segments, r.id)
		if err != nil {
			return false, err
		}
		if in && bad {
			return false, fmt.Errorf("%w: it covers %s, which was refused here or is above one that was", errLeft, r.id.Cid())
		}
		some = some || in
	}
	return some, nil
}

// addEntries merges the entries of a snapshot, from where it was left. some: any of
// the blocks of the cover may have been merged.
func (t *taker) addEntries(ctx context.Context, cp *checkpoint, some bool) error {
	most := t.committer.most
	entries := pace{now: most(firstTakenEntries), least: most(minTakenEntries), most: most(maxTakenEntries)}
	part := takenPart{most: entries.now}
	for e, err := range t.blocks.treeEntries(ctx, cp.snapshot.tree(), cp.done) {
		if err != nil {
			return fmt.Errorf("%w: %w", errLeft, err)
		}
		if part.isFull(e) {
			held, err := t.addPart(ctx, cp.id, &part, some)
			if err != nil {
				return err
			}
			entries.adapt(held)
			part = takenPart{most: entries.now}
		}
		part.add(e)
	}
	if len(part.entries) == 0 {
		return nil
	}
	_, err := t.addPart(ctx, cp.id, &part, some)
	return err
}

// A takenPart is the entries that one commit adds.
type takenPart struct {
	most    int // entries, as a rule
	entries []*entry
	keys    []string // different ones
	size    int
}

func (p *takenPart) add(e *entry) {
	if p.last() != e.key {
		p.keys = append(p.keys, e.key)
	}
	p.entries = append(p.entries, e)
	p.size += len(e.key) + len(e.value)
}

// last returns the key of the last entry. No key is empty.
func (p *takenPart) last() string {
	if len(p.keys) == 0 {
		return ""
	}
	return p.keys[len(p.keys)-1]
}

// isFull reports whether another entry belongs into the next commit. The versions of a
// key stay together up to twice the size, so that the hooks are told once.
func (p *takenPart) isFull(next *entry) bool {
	n := 1
	if p.last() == next.key {
		n = 2
	}
	return len(p.entries) >= n*p.most || p.size >= n*maxTakenBytes
}

// addPart merges some entries in one commit. It returns how long that held the turn.
func (t *taker) addPart(ctx context.Context, id blockID, p *takenPart, some bool) (held time.Duration, err error) {
	ahead, err := t.committer.readAhead(ctx, p.keys)
	if err != nil {
		return 0, err
	}
	var c *commit
	err = t.update(ctx, id, func(now *commit, cp *checkpoint) error {
		c = now
		now.use(ahead)
		for _, e := range p.entries {
			if err := now.addEntry(ctx, e, some); err != nil {
				return err
			}
		}
		cp.done += uint64(len(p.entries))
		now.checkpoints.set(cp)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return c.held, nil
}

// addEntry merges an entry of a snapshot. A version is not added if its block has been
// merged, which then has added it. If it loses, its value is kept: whoever takes what it
// has merged may have lost the block, as after going back to an old copy of the store.
func (c *commit) addEntry(ctx context.Context, e *entry, some bool) error {
	if e.tombstone {
		return c.set.remove(ctx, e.key, e.id, c.dag.merged)
	}
	if some {
		switch merged, err := c.dag.merged(ctx, e.id); {
		case err != nil:
			return err
		case merged:
			return c.set.keepLosing(ctx, e.versionOf())
		}
	}
	return c.set.addEarly(ctx, e)
}

// finishTake makes the cover of a checkpoint count as marks.
func (t *taker) finishTake(ctx context.Context, cp *checkpoint) error {
	covered, err := t.checkpointsIn(ctx, cp.segments)
	if err != nil {
		return err
	}
	t.anyNext = false
	t.repairer.stuck.Store(false) // until the next repair: this may have filled the gaps
	return t.update(ctx, cp.id, func(now *commit, cp *checkpoint) error {
		if err := now.dag.replaceCover(ctx, cp); err != nil {
			return err
		}
		now.hold(cp, &folded{segments: cp.segments, taken: []cid.Cid{cp.id.Cid()}}, covered)
		told := *now.checkpoints.now[cp.id]
		told.state = checkpointTold
		now.checkpoints.set(&told)
		return nil
	})
}

// replaceCover makes a checkpoint complete, in the place of what it covers.
func (c *dagChange) replaceCover(ctx context.Context, cp *checkpoint) error {
	for _, tips := range []*overlay[tips, HeadValue]{&c.heads, &c.pendingHeads} {
		for _, id := range tips.now.of(cp.tip.DAGName) {
			in, err := c.store.inSegments(ctx, cp.segments, id)
			if err != nil {
				return err
			}
			if in {
				tips.remove(id)
			}
		}
	}
	m, err := c.mark(ctx, cp.id)
	if err != nil || m.state != pending { // or else all below it has come under another cover
		return err
	}
	links, err := c.takeLinks(ctx, cp.id, m)
	if err == nil {
		c.complete(cp.id, m, links)
	}
	return err
}

// leave goes back to walking: what is missing is fetched, until it is time to try again.
func (t *taker) leave(ctx context.Context, id blockID, why error) error {
	t.log.Warnf("not taking checkpoint %s: %s", id.Cid(), why)
	t.putOffTaking(id, why)
	return t.unwant(ctx, id, checkpointSeen)
}
