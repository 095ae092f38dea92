package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-datastore"
	badger "github.com/ipfs/go-ds-badger4"
	"github.com/ipfs/go-ds-crdt"
)

const topic = "soak"

// namespace is where the replica keeps its rows; the blocks lie beside it.
var namespace = datastore.NewKey("/crdt")

// node is a replica with all it stands on.
type node struct {
	store   *badger.Datastore
	net     *network
	swap    *bitswap.Bitswap
	replica *crdt.MerkleCRDT
	stop    context.CancelFunc // ends the subscription and the dialing
}

// storeDir and keyFile are what a replica leaves behind in its directory.
func storeDir(dir string) string { return filepath.Join(dir, "store") }
func keyFile(dir string) string  { return filepath.Join(dir, "key") }

// openNode opens a replica.
func openNode(dir string, cfg config) (*node, error) {
	store, err := openStore(storeDir(dir))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	net, err := listen(ctx, keyFile(dir))
	if err != nil {
		stop()
		return nil, err
	}
	blocks := blockstore.NewBlockstore(store)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(net.host), nil, blocks)
	n := &node{store: store, net: net, swap: swap, stop: stop}
	broadcaster, err := crdt.NewPubSubBroadcaster(ctx, net.pubsub, topic)
	if err != nil {
		return nil, err
	}
	dag := merkledag.NewDAGService(blockservice.New(blocks, swap))
	n.replica, err = crdt.NewMerkleCRDT(store, namespace, dag, broadcaster, replicaOptions(cfg), nil)
	return n, err
}

// openStore opens a store of little memory: one memtable, as large as the replica needs
// it, and no cache, which would fill while we look whether the heap grows. ../../bench/scale
// explains more.
func openStore(dir string) (*badger.Datastore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	opts := badger.DefaultOptions
	opts.Options = opts.Options.
		WithNumMemtables(1).
		WithNumCompactors(2).
		WithValueLogFileSize(64 << 20).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithDetectConflicts(false)
	opts.TableSizeMultiplier = 1
	return badger.NewDatastore(dir, &opts)
}

// replicaOptions lets a head that was missed be announced again soon, and a block be asked for
// again soon that a replica had which is gone.
func replicaOptions(cfg config) *crdt.Options {
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = time.Second
	opts.DAGSyncerTimeout = 10 * time.Second
	opts.CheckpointEvery, opts.KeepHistory = cfg.checkpointEvery, cfg.keepHistory
	return opts
}

func (n *node) close() error {
	err := n.replica.Close()
	n.stop()
	return errors.Join(err, n.swap.Close(), n.net.close(), n.store.Close())
}
