package main

import (
	"context"
	"errors"
	"fmt"

	crdt "github.com/ipfs/go-ds-crdt"
)

// The last acts are about what a history weighs, and how to be rid of it.

// rewritten is how many pairs are written again, and rounds how often.
const (
	rewritten = 500
	rounds    = 40
)

func (d *demo) rewriteOften(ctx context.Context) error {
	d.title("Alice writes %s of the pairs %d times more", thousands(rewritten), rounds)
	for round := range rounds {
		again := make([]pair, 0, rewritten)
		for _, p := range d.table[:min(rewritten, len(d.table))] {
			again = append(again, pair{p.key, fmt.Sprintf("%s, round %d", p.value, round+1)})
		}
		if err := writeBatch(ctx, d.alice.replica, again, func(int) {}); err != nil {
			return err
		}
	}
	return d.converge(ctx, func() {}, d.alice, d.bob, d.carol)
}

// dropHistory has one replica make a checkpoint for all, and each drop what it covers.
func (d *demo) dropHistory(ctx context.Context) error {
	before, err := d.alice.weigh(ctx)
	if err != nil {
		return err
	}
	d.title("Alice makes a checkpoint, and all three drop the history below it")
	head, err := d.alice.replica.Checkpoint(ctx)
	if err != nil {
		return fmt.Errorf("alice makes no checkpoint: %w", err)
	}
	d.say("before %s", before)
	for _, n := range []*node{d.alice, d.bob, d.carol} {
		if err := n.compact(ctx, head); err != nil {
			return err
		}
	}
	after, err := d.alice.weigh(ctx)
	if err != nil {
		return err
	}
	d.say("after  %s", after)
	if after.blockBytes >= before.blockBytes || after.rows >= before.rows {
		return errors.New("what was dropped weighed nothing")
	}
	if d.after, err = d.agreed(ctx); err != nil {
		return err
	}
	return d.sameRoots(ctx, d.alice, d.bob, d.carol)
}

// compact waits until a replica has checked a checkpoint, and drops what is below it.
func (n *node) compact(ctx context.Context, checkpoint crdt.Head) error {
	wait, cancel := patiently(ctx, "a replica has not checked the checkpoint")
	defer cancel()
	if err := await(wait, func() bool { return n.replica.InternalStats(ctx).LastCheckpoint.Head == checkpoint }); err != nil {
		return err
	}
	_, err := n.replica.Compact(ctx)
	return err
}

// sameRoots compares all that some replicas hold by one line of each.
func (d *demo) sameRoots(ctx context.Context, nodes ...*node) error {
	first := ""
	for _, n := range nodes {
		root, err := n.replica.StateRoot(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("a replica cannot tell its state: %w", err)
		case first == "":
			first = root.String()
		case root.String() != first:
			return fmt.Errorf("one replica is at %s, another at %s", first, root)
		}
	}
	d.say("all are at %s", first)
	return nil
}

func (d *demo) welcomeDave(ctx context.Context) (err error) {
	d.title("Dave is new. Most of the history is nowhere any more")
	if d.dave, err = d.open("dave", nil); err != nil {
		return err
	}
	if err := d.dave.join(ctx, d.alice, d.bob, d.carol); err != nil {
		return err
	}
	if err := d.converge(ctx, func() {}, d.alice, d.dave); err != nil {
		return err
	}
	got, err := d.dave.weigh(ctx)
	if err != nil {
		return err
	}
	d.say("has fetched %s blocks of %s bytes", thousands(got.blocks), thousands(got.blockBytes))
	same, err := d.agreedBy(ctx, "alice", d.alice, "dave", d.dave)
	if err != nil {
		return err
	}
	d.say("compared key by key: alice and dave hold the same %s pairs", thousands(len(same)))
	return d.sameRoots(ctx, d.alice, d.dave)
}
