package crdt

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// prepare fetches all of a snapshot and checks it, and makes rows of its cover. An error
// that is errBadSnapshot is final.
func (c *checkpointer) prepare(ctx context.Context, cp *checkpoint) ([]segment, error) {
	ctx, end := c.whilePagesCome(ctx)
	defer end()
	segments, err := c.readSnapshot(ctx, cp)
	if err != nil && !errors.Is(err, errBadSnapshot) {
		err = fmt.Errorf("%w: %w", errLeft, err)
	}
	return segments, err
}

func (c *checkpointer) readSnapshot(ctx context.Context, cp *checkpoint) ([]segment, error) {
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

// whilePagesCome returns a context that ends once no page has come for a while: as long as
// this takes, blocks are withheld, and others wait for the checkpointer.
func (c *checkpointer) whilePagesCome(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	c.background.Go(func() {
		defer cancel()
		ticks := time.NewTicker(pagePatience)
		defer ticks.Stop()
		for before, now := uint64(0), c.blocks.pagesGot.Load()+1; now != before; {
			select {
			case <-ticks.C:
				before, now = now, c.blocks.pagesGot.Load()+1
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, cancel
}

// pagePatience is how long that is. On a slow link several large pages share the time.
const pagePatience = 30 * time.Second
