package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/peering"
	ds "github.com/ipfs/go-datastore"
	badger "github.com/ipfs/go-ds-badger4"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/p2p/net/conngater"
)

// topic is where replicas announce their heads. Nodes on other topics are
// strangers to this store even when they are connected.
const topic = "globaldb"

// namespace keeps the replica's rows apart from the blocks, which live in the
// same Badger store under /blocks.
var namespace = ds.NewKey("/globaldb")

// settings say what a node is to be.
type settings struct {
	dir         string               // holds the identity key and the Badger folder; created if missing
	listen      string               // multiaddress to accept connections on
	rebroadcast time.Duration        // how soon, at most, a newcomer hears of our heads
	onPut       func(ds.Key, []byte) // optional; called for every value that comes to be
}

// node is one member of the network: a libp2p host that announces heads over
// gossipsub and serves blocks over bitswap, and the replica on top of it.
type node struct {
	replica *crdt.Datastore

	ctx     context.Context // ends with Close; everything the node runs lives in it
	host    host.Host
	gater   *conngater.BasicConnectionGater
	peering *peering.PeeringService
	pubsub  *pubsub.PubSub
	store   ds.Batching
	blocks  blockservice.BlockService

	closers []func() error
}

// openNode builds a node bottom up: store, host, block exchange, replica.
func openNode(s settings) (*node, error) {
	n := &node{}
	for _, build := range []func(settings) error{
		n.openStore, n.openHost, n.openNetwork, n.openReplica,
	} {
		if err := build(s); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// Close takes the node down in the reverse order of its construction, so that
// the replica can still announce its last writes.
func (n *node) Close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	n.closers = nil
	return errors.Join(errs...)
}

func (n *node) onClose(f func() error) { n.closers = append(n.closers, f) }

func (n *node) openStore(s settings) error {
	store, err := openBadger(s.dir)
	if err != nil {
		return err
	}
	n.store = store
	n.onClose(store.Close)
	return nil
}

func openBadger(dir string) (*badger.Datastore, error) {
	opts := badger.DefaultOptions
	// Badger maps twice this size at once, which is much for a small store.
	opts.ValueLogFileSize = 64 << 20
	store, err := badger.NewDatastore(filepath.Join(dir, "badger"), &opts)
	if err != nil {
		return nil, fmt.Errorf("cannot open the store in %s: %w", dir, err)
	}
	return store, nil
}

func (n *node) openHost(s settings) error {
	key, err := loadIdentity(filepath.Join(s.dir, "identity.key"))
	if err != nil {
		return err
	}
	if n.gater, err = conngater.NewBasicConnectionGater(nil); err != nil {
		return err
	}
	n.host, err = libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings(s.listen), libp2p.ConnectionGater(n.gater))
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", s.listen, err)
	}
	n.onClose(n.host.Close)
	return nil
}

func (n *node) openNetwork(settings) error {
	ctx, cancel := context.WithCancel(context.Background())
	n.ctx = ctx
	n.onClose(func() error { cancel(); return nil })

	// There is no content routing: bitswap asks the connected peers.
	bstore := blockstore.NewBlockstore(n.store)
	exchange := bitswap.New(ctx, bsnet.NewFromIpfsHost(n.host), nil, bstore)
	n.blocks = blockservice.New(bstore, exchange)
	n.onClose(n.blocks.Close)

	n.peering = peering.NewPeeringService(n.host)
	n.onClose(func() error { n.peering.Stop(); return nil })
	n.host.SetStreamHandler(headsProtocol, n.serveHeads)

	// Flooding reaches a peer as soon as it has subscribed. The mesh, made
	// for large networks, would take it in at its next heartbeat.
	var err error
	n.pubsub, err = pubsub.NewGossipSub(ctx, n.host, pubsub.WithFloodPublish(true))
	return errors.Join(err, n.peering.Start())
}

func (n *node) openReplica(s settings) error {
	bcast, err := crdt.NewPubSubBroadcaster(n.ctx, n.pubsub, topic)
	if err != nil {
		return err
	}
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = s.rebroadcast
	opts.PutHook = s.onPut
	n.replica, err = crdt.New(n.store, namespace, merkledag.NewDAGService(n.blocks), bcast, opts)
	if err != nil {
		return fmt.Errorf("cannot open the replica in %s: %w", s.dir, err)
	}
	n.onClose(n.replica.Close)
	return nil
}
