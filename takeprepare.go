package crdt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// prepare fetches all of a snapshot and checks it, and makes rows of its cover. An error
// that is errBadSnapshot is final.
func (c *taker) prepare(ctx context.Context, cp *checkpoint) ([]segment, error) {
	coming, end := c.whilePagesCome(ctx, c.isWaitedFor)
	defer end()
	segments, err := c.readSnapshot(coming, cp)
	switch {
	case err == nil || errors.Is(err, errBadSnapshot):
		return segments, err
	case context.Cause(coming) == errWaitedFor:
		err = errWaitedFor
	}
	return nil, fmt.Errorf("%w: %w", errLeft, err)
}

func (c *taker) readSnapshot(ctx context.Context, cp *checkpoint) ([]segment, error) {
	segments, err := c.blocks.readCover(ctx, cp.snapshot.cover)
	if err != nil {
		return nil, err
	}
	if n := coverIDs(segments); n != cp.snapshot.blocks {
		return nil, fmt.Errorf("%w: the cover has %d blocks, and is said to have %d", errBadSnapshot, n, cp.snapshot.blocks)
	}
	if err := c.committer.stageSegments(ctx, segments); err != nil {
		return nil, err
	}
	covered := func(ctx context.Context, id blockID) (bool, error) { return c.store.inSegments(ctx, segments, id) }
	if err := cp.checkLinks(ctx, covered); err != nil {
		return nil, err
	}
	return segments, c.blocks.checkTree(ctx, cp.snapshot.tree(), covered)
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

// whilePagesCome returns a context that ends once no page has come for a while though some
// are waited for, or while others wait: they may wait for as long as pages come, which
// peers decide. waited may be nil; it is not called any more when end returns.
func (c *checkpointJobs) whilePagesCome(ctx context.Context, waited func() bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { cancel(c.watchPages(ctx, waited)) })
	return ctx, func() {
		cancel(nil)
		watch.Wait()
	}
}

// pagePatience is how long that is. On a slow link several large pages share the time.
const pagePatience = 30 * time.Second

var (
	errNoneCome  = errors.New("no page has come for a while")
	errWaitedFor = errors.New("others have waited for long enough")
)

// watchPages returns why no more pages are to be waited for.
func (c *checkpointJobs) watchPages(ctx context.Context, waited func() bool) error {
	ticks := time.NewTicker(pagePatience / 2)
	defer ticks.Stop()
	silent := 0 // ticks
	for tick, before := 1, c.blocks.pagesGot.Load(); ; tick++ {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := c.blocks.pagesGot.Load()
		if silent++; now != before || c.blocks.pagesWanted.Load() == 0 {
			silent = 0
		}
		switch {
		case silent == 2:
			return errNoneCome
		case tick%2 == 0 && waited != nil && waited():
			return errWaitedFor
		}
		before = now
	}
}
