package crdt

import (
	"context"
	"errors"
	"fmt"
)

// prepare fetches all of a snapshot and checks it, and makes rows of its cover. An error
// that is errBadSnapshot is final.
func (t *taker) prepare(ctx context.Context, cp *checkpoint) ([]segment, error) {
	coming, end := t.blocks.whilePagesCome(ctx, t.isWaitedFor)
	defer end()
	segments, err := t.readSnapshot(coming, cp)
	switch {
	case err == nil || errors.Is(err, errBadSnapshot):
		return segments, err
	case context.Cause(coming) == errWaitedFor:
		err = errWaitedFor
	}
	return nil, fmt.Errorf("%w: %w", errLeft, err)
}

func (t *taker) readSnapshot(ctx context.Context, cp *checkpoint) ([]segment, error) {
	segments, err := t.blocks.readCover(ctx, cp.snapshot.cover)
	if err != nil {
		return nil, err
	}
	if n := coverIDs(segments); n != cp.snapshot.blocks {
		return nil, fmt.Errorf("%w: the cover has %d blocks, and is said to have %d", errBadSnapshot, n, cp.snapshot.blocks)
	}
	if err := t.committer.stageSegments(ctx, segments); err != nil {
		return nil, err
	}
	covered := func(ctx context.Context, id blockID) (bool, error) { return t.store.inSegments(ctx, segments, id) }
	if err := cp.checkLinks(ctx, covered); err != nil {
		return nil, err
	}
	return segments, t.blocks.checkTree(ctx, cp.snapshot.tree(), covered)
}

// checkLinks checks what can be seen without the blocks: a cover has all that is linked.
func (cp *checkpoint) checkLinks(ctx context.Context, covered func(context.Context, blockID) (bool, error)) error {
	for _, id := range cp.links {
		switch in, err := covered(ctx, id); {
		case err != nil:
			return err
		case !in:
			return fmt.Errorf("%w: the cover lacks block %s, to which the checkpoint links", errBadSnapshot, id.Cid())
		}
	}
	in, err := covered(ctx, cp.id)
	if in {
		err = fmt.Errorf("%w: the checkpoint is in its own cover", errBadSnapshot)
	}
	return err
}
