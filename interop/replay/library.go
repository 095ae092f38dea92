package main

import (
	"context"
	"sync"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
)

// library is a DAG service in which a request for a block waits until the block has been
// given, as with bitswap.
type library struct {
	ipld.DAGService
	blocks blockstore.Blockstore

	mu      sync.Mutex
	given   map[cid.Cid]bool
	changed chan struct{} // closed when a block is given
}

func newLibrary() *library {
	bs := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	return &library{
		DAGService: merkledag.NewDAGService(blockservice.New(bs, offline.Exchange(bs))),
		blocks:     bs,
		given:      make(map[cid.Cid]bool),
		changed:    make(chan struct{}),
	}
}

func (l *library) give(ctx context.Context, c cid.Cid, data []byte) error {
	b, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return err
	}
	if err := l.blocks.Put(ctx, b); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given[c] = true
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// has also gives what is closed when that may have changed.
func (l *library) has(c cid.Cid) (bool, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.given[c], l.changed
}

func (l *library) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	for {
		has, changed := l.has(c)
		if has {
			return l.DAGService.Get(ctx, c)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *library) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
	out := make(chan *ipld.NodeOption, len(cids))
	var all sync.WaitGroup
	for _, c := range cids {
		all.Go(func() {
			node, err := l.Get(ctx, c)
			out <- &ipld.NodeOption{Node: node, Err: err}
		})
	}
	go func() {
		all.Wait()
		close(out)
	}()
	return out
}
