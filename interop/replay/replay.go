package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func replay(req wire.Replay, out *wire.Outcome) (err error) {
	ctx := context.Background()
	r, err := newReplica(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for i, step := range req.Steps {
		if err := r.take(ctx, req, step); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	if err := r.settle(ctx, req.Heads); err != nil {
		return err
	}
	return r.describe(ctx, out)
}

func (r *replica) take(ctx context.Context, req wire.Replay, step wire.Step) error {
	for _, i := range step.Give {
		if err := r.library.give(ctx, r.cids[i], req.Blocks[i].Data); err != nil {
			return err
		}
	}
	if len(step.Announce) > 0 {
		r.heard <- step.Announce
	}
	if err := await("blocks to be merged", func() (bool, error) { return r.merged(ctx, step.Await) }); err != nil {
		return err
	}
	if step.Reopen {
		return r.reopen()
	}
	return nil
}

// settle waits until all is merged and the right blocks are heads: the pairs are then
// the outcome, not something on the way to it.
func (r *replica) settle(ctx context.Context, want []string) error {
	all := make([]int, len(r.cids))
	for i := range all {
		all[i] = i
	}
	if err := await("all blocks to be merged", func() (bool, error) { return r.merged(ctx, all) }); err != nil {
		return err
	}
	var heads []string
	err := await("the right heads", func() (_ bool, err error) {
		heads, err = r.heads(ctx)
		return slices.Equal(heads, want), err
	})
	if err != nil {
		return fmt.Errorf("%w: has %v, not %v", err, heads, want)
	}
	return nil
}

func (r *replica) describe(ctx context.Context, out *wire.Outcome) (err error) {
	if out.Heads, err = r.heads(ctx); err != nil {
		return err
	}
	out.Pairs, err = r.pairs(ctx)
	return err
}
