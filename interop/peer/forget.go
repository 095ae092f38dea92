package main

import (
	"context"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
)

// forget deletes every block that another block links to, and so makes a peer whose
// heads can be had, but not their history.
func (n *node) forget(ctx context.Context) error {
	all, err := n.blocks.AllKeysChan(ctx)
	if err != nil {
		return err
	}
	linked := cid.NewSet()
	for c := range all {
		if err := n.addLinks(ctx, c, linked); err != nil {
			return err
		}
	}
	return linked.ForEach(func(c cid.Cid) error { return n.blocks.DeleteBlock(ctx, c) })
}

// addLinks reads past the block's name in the blockstore: a blockstore keeps blocks by
// their multihash and lists them as raw ones.
func (n *node) addLinks(ctx context.Context, c cid.Cid, to *cid.Set) error {
	block, err := n.blocks.Get(ctx, c)
	if err != nil {
		return err
	}
	dagNode, err := merkledag.DecodeProtobuf(block.RawData())
	if err != nil {
		return err
	}
	for _, link := range dagNode.Links() {
		to.Add(link.Cid)
	}
	return nil
}
