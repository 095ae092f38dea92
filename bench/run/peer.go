package main

import (
	"context"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
)

const topic = "bench"

// peer is a replica with a libp2p host of its own, which keeps rows and blocks in one
// store.
type peer struct {
	host    host.Host
	mesh    *mesh
	replica *crdt.Datastore
}

func (e *env) openPeer(opts *crdt.Options) (*peer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	e.onClose(func() error { cancel(); return nil })
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
	if err != nil {
		return nil, err
	}
	e.onClose(h.Close)
	p := &peer{host: h, mesh: newMesh()}
	gossip, err := pubsub.NewGossipSub(ctx, h, pubsub.WithEventTracer(p.mesh),
		pubsub.WithPeerOutboundQueueSize(queueSize), pubsub.WithValidateQueueSize(queueSize))
	if err != nil {
		return nil, err
	}
	return p, e.openReplicaOf(ctx, p, gossip, opts)
}

// queueSize keeps pubsub from dropping announcements, which it does when 32 of them
// wait: how the replicas make up for a loss is not what is measured.
const queueSize = 1 << 12

func (e *env) openReplicaOf(ctx context.Context, p *peer, gossip *pubsub.PubSub, opts *crdt.Options) error {
	store, err := e.openStore()
	if err != nil {
		return err
	}
	blocks := blockstore.NewBlockstore(store)
	service := blockservice.New(blocks, bitswap.New(ctx, bsnet.NewFromIpfsHost(p.host), nil, blocks))
	e.onClose(service.Close)
	bcast, err := crdt.NewPubSubBroadcaster(ctx, gossip, topic)
	if err != nil {
		return err
	}
	p.replica, err = e.openReplicaOn(store, merkledag.NewDAGService(service), bcast, opts)
	return err
}

func (e *env) connect(from, to *peer) error {
	ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
	defer cancel()
	return from.host.Connect(ctx, *host.InfoFromHost(to.host))
}
