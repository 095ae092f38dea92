//go:build !released

package main

import (
	"context"
	"flag"

	"github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func addFlags(opts *crdt.Options) {
	flag.IntVar(&opts.CheckpointEvery, "checkpoint-every", 0, "blocks after which a checkpoint is made")
	flag.BoolVar(&opts.SupersedingPuts, "superseding", false, "whether a Put removes what it replaces")
}

func lastCheckpoint(stats crdt.Stats) uint64 { return stats.LastCheckpoint.Height }

func (n *node) checkpoint(ctx context.Context) error {
	_, err := n.replica.Checkpoint(ctx)
	return err
}

func (n *node) compact(ctx context.Context, resp *wire.Response) error {
	done, err := n.replica.Compact(ctx)
	resp.Dropped = done.Blocks
	return err
}
