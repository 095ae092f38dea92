package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A checkpoint of another replica that has become complete by walking is checked: what is
// folded here of the same heads must be the same. If it is, the checkpoint is held. If it
// is not, it is void: a block like any other, that is never built on or taken. If nothing
// can be folded, it stays undecided, which does no harm.
//
// Where the fold rests on a snapshot that was taken, this may be the wrong one. Nobody here can
// know: peers can contradict whatever was taken, as often as they like. So a replica stands by
// what it took, as its pairs do, and goes on: the other one is void here. The operator is told,
// and can look at a replica that has never taken one.

// A verifier checks those of others. Its fields belong to the goroutine.
type verifier struct {
	*checkpointJobs
	isWaitedFor func() bool           // whether others wait for it
	undecided   map[blockID]time.Time // checkpoints that could not be checked, and when one was held last then
	rest        time.Time             // until when none is checked, as some were in vain
	anyNext     bool                  // the next one may be any, not the highest alone
}

// verifyNext checks the next checkpoint.
func (v *verifier) verifyNext(ctx context.Context) (did bool, err error) {
	cp, err := v.nextToVerify(ctx)
	if cp == nil || err != nil {
		return false, err
	}
	return v.doChore(ctx, cp.tip.DAGName, func(ctx context.Context) error { return v.verify(ctx, cp) })
}

// nextToVerify returns the highest checkpoint that may be checked. After one that was checked
// in vain any will do, once: liars can always be higher, and there may be many of them below.
func (v *verifier) nextToVerify(ctx context.Context) (next *checkpoint, err error) {
	if !v.chores.isTime(v.rest) {
		return nil, nil
	}
	known := v.committer.frontier.checkpoints()
	for _, cp := range known {
		if next != nil && (v.anyNext || cp.isWorth(next) < 0) {
			continue
		}
		switch may, err := v.mayVerify(ctx, known, cp); {
		case err != nil:
			return nil, err
		case may:
			next = cp
		}
	}
	return next, nil
}

// mayVerify reports whether a checkpoint is complete and has not been judged. One whose links
// are all in covers that are held says nothing new: it is passed over.
func (v *verifier) mayVerify(ctx context.Context, known checkpoints, cp *checkpoint) (bool, error) {
	if cp.state != checkpointSeen || v.isUndecided(known, cp) {
		return false, nil
	}
	m, err := v.store.mark(ctx, cp.id)
	if err != nil || m.state != complete {
		return false, err
	}
	old, err := v.isOld(ctx, known, cp)
	return !old, err
}

// isUndecided reports whether a checkpoint could not be checked, and none has come to be held
// since.
func (v *verifier) isUndecided(known checkpoints, cp *checkpoint) bool {
	tried, ok := v.undecided[cp.id]
	return ok && !known.newestHold().After(tried)
}

// isToJudge reports whether any of a DAG may come to be checked.
func (v *verifier) isToJudge(ctx context.Context, dagName string) (bool, error) {
	known := v.committer.frontier.checkpoints()
	for _, cp := range known.of(dagName).in(checkpointSeen) {
		if v.isUndecided(known, cp) {
			continue
		}
		if old, err := v.isOld(ctx, known, cp); !old || err != nil {
			return err == nil, err
		}
	}
	return false, nil
}

// isToVerify reports whether any may be checked now.
func (v *verifier) isToVerify() bool {
	next, err := v.nextToVerify(v.chores.ctx)
	return next != nil && err == nil
}

// isOld reports whether all that a checkpoint covers is in covers that are held. One
// that was made of the same heads as another is checked all the same: that costs nothing.
func (v *verifier) isOld(ctx context.Context, known checkpoints, cp *checkpoint) (bool, error) {
	if known.sameHeads(cp) != nil {
		return false, nil
	}
	covers := known.held().of(cp.tip.DAGName).segments()
	for _, id := range cp.links {
		if in, err := v.store.inSegments(ctx, covers, id); !in || err != nil {
			return false, err
		}
	}
	return true, nil
}

// sameHeads returns a checkpoint that is held and was made of the same heads, or nil.
func (all checkpoints) sameHeads(cp *checkpoint) *checkpoint {
	for id, o := range all {
		if id != cp.id && o.state.held() && o.tip.DAGName == cp.tip.DAGName && sameIDs(o.links, cp.links) {
			return o
		}
	}
	return nil
}

func sameIDs(a, b []blockID) bool {
	return slices.Equal(sortIDs(slices.Clone(a)), sortIDs(slices.Clone(b)))
}

// verify checks a checkpoint, and lets it be if that cannot be done. It is tried again
// once another one is held, and after the next start: it may have taken long.
func (v *verifier) verify(ctx context.Context, cp *checkpoint) error {
	begun := time.Now()
	err := v.check(ctx, cp)
	if ctx.Err() != nil {
		return err
	}
	now := v.checkpoint(cp.id)
	vain := now == nil || !now.state.held()
	if v.anyNext = vain && !v.anyNext; vain {
		v.rest = time.Now().Add(min(restShare*time.Since(begun), maxRest))
	}
	if err == nil {
		return nil
	}
	log := v.log.Warnf
	if errors.Is(err, errIsDropped) {
		log = v.log.Infof // as a rule a later one covers both
	}
	log("checkpoint %s is not held, as it could not be checked: %s", cp.id.Cid(), err)
	known := v.committer.frontier.checkpoints()
	maps.DeleteFunc(v.undecided, func(id blockID, _ time.Time) bool { return known[id] == nil })
	setIn(&v.undecided, cp.id, known.newestHold())
	return nil
}

// restShare is how many times as long as a check in vain none is begun: whatever liars
// send, it takes a quarter of the time. One of more than ten minutes has mostly waited for
// pages: it is not to keep all others from being checked for hours.
const (
	restShare = 3
	maxRest   = 30 * time.Minute
)

func (v *verifier) check(ctx context.Context, cp *checkpoint) error {
	f, err := v.refold(ctx, cp)
	if err != nil {
		return err
	}
	own := f.snapshot
	segments, err := v.agree(ctx, f, cp)
	switch {
	case errors.Is(err, errBadSnapshot):
		err = v.contradict(ctx, cp, f, err)
	case err == nil:
		f.segments = segments
		err = v.confirm(ctx, cp, f)
	}
	if own == cp.snapshot || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, v.discard(ctx, own))
}

// confirm holds a checkpoint that is what its blocks say.
func (v *verifier) confirm(ctx context.Context, cp *checkpoint, f *folded) error {
	covered, err := v.stage(ctx, f.segments)
	if err != nil {
		return err
	}
	err = v.judge(ctx, cp, func(now *commit, cp *checkpoint) { now.hold(cp, f, covered) })
	if err == nil {
		v.log.Infof("checkpoint %s of DAG %q is what its blocks say: %s", cp.id.Cid(), cp.tip.DAGName, &cp.snapshot)
	}
	return err
}

// discard removes the pages of a snapshot that was folded to compare it, but for those that
// some checkpoint has.
func (j *checkpointJobs) discard(ctx context.Context, s snapshotName) error {
	pages, err := j.pagesOfNone(ctx, checkpoints{blockID{}: {snapshot: s}})
	if err != nil {
		return err
	}
	err = j.committer.do(ctx, func(now *commit) error {
		now.namePages(pages)
		return nil
	})
	if err != nil {
		return err
	}
	return j.finishPages(ctx)
}

// maxOldBlocks is how many blocks that a held checkpoint covers are read to check another:
// those since the one that both are built on, if they were made at the same time. A peer
// can make one of a single block of long ago, which is not worth reading all history for.
const maxOldBlocks = 64 << 10

// refold makes the snapshot of the heads of a checkpoint.
func (v *verifier) refold(ctx context.Context, cp *checkpoint) (*folded, error) {
	if same := v.committer.frontier.checkpoints().sameHeads(cp); same != nil {
		return &folded{snapshot: same.snapshot, segments: same.segments, taken: checkpoints{same.id: same}.taken()}, nil
	}
	return v.foldWithin(ctx, cp.tip.DAGName, cp.links, v.blocks, maxOldBlocks)
}

// agree returns the segments of a checkpoint's cover, all of whose pages are here, if its
// snapshot is what has been folded. Otherwise it returns errBadSnapshot.
func (v *verifier) agree(ctx context.Context, f *folded, cp *checkpoint) ([]segment, error) {
	own, other := f.snapshot, cp.snapshot
	if own == other {
		return f.segments, nil
	}
	own.cover = other.cover
	if own != other {
		return nil, fmt.Errorf("%w: it says %s, and its blocks say %s", errBadSnapshot, &other, &own)
	}
	ctx, end := v.blocks.whilePagesCome(ctx, v.isWaitedFor)
	defer end()
	segments, err := v.blocks.readCover(ctx, other.cover)
	if err != nil {
		return nil, err
	}
	same, err := v.blocks.sameCover(ctx, f.segments, segments)
	if err == nil && !same {
		err = fmt.Errorf("%w: it covers other blocks than those below it", errBadSnapshot)
	}
	return segments, err
}

// contradict makes a checkpoint void that is not what is folded here.
func (v *verifier) contradict(ctx context.Context, cp *checkpoint, f *folded, why error) error {
	if len(f.taken) > 0 {
		why = fmt.Errorf("%w; unless what was taken here is false, %s. If replicas that never took any hold the former, "+
			"purge DAG %q here, to join again", why, f.taken, cp.tip.DAGName)
	}
	return v.avoid(ctx, cp.id, why)
}

// judge changes what is known of a checkpoint, if that is as it was.
func (v *verifier) judge(ctx context.Context, cp *checkpoint, change func(*commit, *checkpoint)) error {
	return v.committer.do(ctx, func(now *commit) error {
		if cp := now.checkpoints.now[cp.id]; cp != nil && cp.state == checkpointSeen {
			change(now, cp)
		}
		return nil
	})
}

// newestHold is when a checkpoint came to be held last.
func (all checkpoints) newestHold() (newest time.Time) {
	for _, cp := range all.held() {
		if cp.since.After(newest) {
			newest = cp.since
		}
	}
	return newest
}
