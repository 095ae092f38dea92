package main

import (
	"context"
	"errors"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt"
)

// namespace is where the replica keeps its rows; the blocks lie beside it.
var namespace = datastore.NewKey("/crdt")

// node is a replica with all it stands on.
type node struct {
	net     *network
	swap    *bitswap.Bitswap
	wants   *wants
	store   datastore.Batching
	blocks  blockstore.Blockstore
	replica *crdt.Datastore
	stop    context.CancelFunc // ends the subscription of the broadcaster
}

func openNode(ctx context.Context, dir string, opts *crdt.Options) (*node, error) {
	store, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	net, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	blocks := blockstore.NewBlockstore(store)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(net.host), nil, blocks)
	wants := &wants{SessionExchange: swap, asked: cid.NewSet()}
	n := &node{net: net, swap: swap, wants: wants, store: store, blocks: blocks, stop: stop}
	n.replica, err = n.openReplica(ctx, opts)
	return n, err
}

func (n *node) openReplica(ctx context.Context, opts *crdt.Options) (*crdt.Datastore, error) {
	broadcaster, err := crdt.NewPubSubBroadcaster(ctx, n.net.pubsub, topic)
	if err != nil {
		return nil, err
	}
	dag := merkledag.NewDAGService(blockservice.New(n.blocks, n.wants))
	return crdt.New(n.store, namespace, dag, broadcaster, opts)
}

// options lets everything that happens now and then happen about once a second, since
// the tests wait for it.
func options() *crdt.Options {
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = time.Second
	opts.RepairInterval = time.Second
	opts.DAGSyncerTimeout = 2 * time.Second
	return opts
}

func (n *node) close() error {
	err := n.replica.Close()
	n.stop()
	return errors.Join(err, n.swap.Close(), n.net.host.Close(), n.store.Close())
}
