package crdt

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
)

// Of a DAG that has checkpoints many blocks are not here: they have been dropped, or a
// snapshot was taken in their place. What these gave to keys is found in the snapshots,
// which have all versions that can be live still, and it goes first, being the oldest:
//
//  1. Those blocks that are here still, below a checkpoint, are dropped (see drop). From
//     then on blocks with a row are purged as ever, and snapshots stand for all others.
//  2. The checkpoints are in state purged. So what they cover counts as not merged, and
//     is not merged again until step 4, nor after a restart.
//  3. The versions in the snapshots are forgotten. The row of a checkpoint says how many:
//     a further call must not take one of these for one that others have removed.
//  4. The checkpoints are retired, and their pages and segments swept.
//
// If the call is cut off before step 4, a further one goes on, or the next start does:
// otherwise the DAG could not come again.

// dropCovered drops the blocks below the DAG's checkpoints.
func (p *purge) dropCovered(ctx context.Context) (removed int, err error) {
	if err := p.checkpointer.finishDrop(ctx); err != nil {
		return 0, err
	}
	held := p.committer.frontier.checkpoints().held().of(p.dagName)
	for _, cp := range held {
		if cp.state == checkpointTold { // or rows of what it covers would stay
			if err := p.checkpointer.tellCover(ctx, cp); err != nil {
				return 0, err
			}
		}
	}
	if len(held) == 0 {
		return 0, nil
	}
	d := p.checkpointer.newDrop(held)
	if err = d.dropBlocks(ctx); err == nil {
		err = d.unread
	}
	return d.done.Blocks, err
}

// purge is for the checkpoints of a DAG whose blocks are being purged.
func (c *checkpointsChange) purge(dagName string) {
	for id, old := range maps.Clone(c.now) {
		switch {
		case old.tip.DAGName != dagName || old.state == checkpointPurged || old.state == checkpointRetired:
		case old.state.held() || old.state == checkpointTaking || old.done > 0: // it may have brought versions
			cp := *old
			cp.state, cp.done = checkpointPurged, 0
			c.set(&cp)
		default:
			c.remove(id)
		}
	}
}

// purged returns the checkpoints of a DAG that are being purged, in the order of their ids.
func (all checkpoints) purged(dagName string) []*checkpoint {
	purged := maps.Values(all.of(dagName).in(checkpointPurged))
	return slices.SortedFunc(purged, func(a, b *checkpoint) int { return a.id.compare(b.id) })
}

// forgetSnapshots forgets the versions in the DAG's snapshots, and sweeps these.
func (p *purge) forgetSnapshots(ctx context.Context) error {
	purged := p.committer.frontier.checkpoints().purged(p.dagName)
	if len(purged) > 0 {
		if err := p.forgetEntries(ctx, purged); err != nil {
			return err
		}
	}
	err := p.committer.do(ctx, func(c *commit) error {
		for _, cp := range purged {
			gone := *c.checkpoints.now[cp.id]
			gone.state = checkpointRetired
			c.checkpoints.set(&gone)
		}
		return nil
	})
	if err == nil {
		_, err = p.checkpointer.sweep(ctx)
	}
	if err == nil {
		err = p.committer.sweepSegments(ctx) // of one that was about to be taken
	}
	return err
}

// forgetEntries forgets the versions in some snapshots: first those of the ones that were
// held, side by side, as of these it matters why a version is gone. Of the others only
// what was added of them can be here, and some of their pages may not be: what is known
// from these alone stays.
func (p *purge) forgetEntries(ctx context.Context, purged []*checkpoint) error {
	held := slices.DeleteFunc(slices.Clone(purged), (*checkpoint).neverHeld)
	wasHeld := func(cp *checkpoint) bool { return !cp.neverHeld() }
	p.segments = p.committer.frontier.checkpoints().of(p.dagName).in(checkpointPurged).where(wasHeld).segments()
	if err := p.explain(ctx); err != nil {
		return err
	}
	if err := p.keepRemoved(ctx); err != nil {
		return err
	}
	if err := p.forgetVersions(ctx, held); err != nil {
		return err
	}
	for _, cp := range purged {
		if !cp.neverHeld() {
			continue
		}
		var lost unreadable
		if err := p.forgetVersions(ctx, []*checkpoint{cp}); err != nil && !errors.As(err, &lost) {
			return err
		}
	}
	return nil
}

// neverHeld reports whether the snapshot of a checkpoint may not be here as a whole.
func (cp *checkpoint) neverHeld() bool { return cp.since.IsZero() }

// maxForgotten is how many versions of snapshots one commit forgets, and a few more: those
// of a key go together, or older ones would show on the way.
const maxForgotten = 512

// A snapshotVersion is a version in some of the snapshots that are being purged.
type snapshotVersion struct {
	versionName
	in       []int // the snapshots that have it
	byItself bool  // the DAG itself has removed it, if it is not live
}

// An unreadable error says that some versions in a snapshot cannot be read.
type unreadable struct{ error }

// forgetVersions forgets what is left of the versions in snapshots.
func (p *purge) forgetVersions(ctx context.Context, purged []*checkpoint) error {
	var portion []snapshotVersion
	flush := func() (err error) {
		for len(portion) > 0 && err == nil {
			var n int
			if n, err = p.forgetPortion(ctx, purged, portion); err == nil {
				portion = portion[n:]
			}
		}
		return err
	}
	for v, err := range p.versionsIn(ctx, purged) {
		if err != nil {
			return unreadable{err}
		}
		if len(portion) >= p.committer.most(maxForgotten) && v.key != portion[len(portion)-1].key {
			if err := flush(); err != nil {
				return err
			}
		}
		portion = append(portion, v)
	}
	return flush()
}

// forgetPortion commits that as many of the versions are forgotten as fit, and returns
// how many.
func (p *purge) forgetPortion(ctx context.Context, purged []*checkpoint, portion []snapshotVersion) (n int, err error) {
	p.committer.hooks.waitWhileFull()
	err = p.committer.do(ctx, func(c *commit) error {
		done := make([]uint64, len(purged))
		uncovered := 0
		for n = 0; n < len(portion) && (uncovered < maxUncoveredKeys || portion[n].key == portion[n-1].key); n++ {
			u, err := p.forgetInSnapshot(ctx, c, portion[n])
			if err != nil {
				return err
			}
			uncovered += u
			for _, i := range portion[n].in {
				done[i]++
			}
		}
		for i, cp := range purged {
			now := *c.checkpoints.now[cp.id]
			now.done += done[i]
			c.checkpoints.set(&now)
		}
		return nil
	})
	return n, err
}

// forgetInSnapshot forgets a version, unless its block has a row: then it is purged with
// that, or has come since.
func (p *purge) forgetInSnapshot(ctx context.Context, c *commit, v snapshotVersion) (uncovered int, err error) {
	here, err := p.store.Has(ctx, p.store.keys.block(v.id))
	if err != nil || here {
		return 0, err
	}
	if _, named := p.names[v.versionName]; v.byItself && !named {
		p.names[v.versionName] = false
	}
	return p.forgetVersion(ctx, c, v.versionName)
}

// versionsIn yields the versions in snapshots, as far as they have not been forgotten:
// each once, in the order of their keys.
func (p *purge) versionsIn(ctx context.Context, purged []*checkpoint) iter.Seq2[snapshotVersion, error] {
	return func(yield func(snapshotVersion, error) bool) {
		cursors := make([]*versionCursor, len(purged))
		for i, cp := range purged {
			cursors[i] = p.blocks.openVersions(ctx, cp.snapshot.tree(), cp.done)
			defer cursors[i].stop()
		}
		for {
			v, more, err := p.nextVersion(ctx, purged, cursors)
			if !more && err == nil || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// nextVersion takes the next version from all snapshots that have it.
func (p *purge) nextVersion(ctx context.Context, purged []*checkpoint, cursors []*versionCursor) (v snapshotVersion, more bool, err error) {
	var least *entry
	for _, c := range cursors {
		if c.err != nil {
			return v, false, c.err
		}
		if at := c.at; at != nil && (least == nil || at.compare(least) < 0) {
			least = at
		}
	}
	if least == nil {
		return v, false, nil
	}
	v.versionName = versionName{least.key, least.id}
	for i, cp := range purged {
		switch c := cursors[i]; {
		case c.at != nil && c.at.key == v.key && c.at.id == v.id:
			v.in, v.byItself = append(v.in, i), v.byItself || cp.neverHeld()
			c.advance()
		case !v.byItself: // by one that covers the block, and does not have the version
			if v.byItself, err = p.store.inSegments(ctx, cp.segments, v.id); err != nil {
				return v, false, err
			}
		}
	}
	return v, true, nil
}
