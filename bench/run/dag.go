package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// memoryDAG is a DAG service in memory. What it lacks it requests from its source, if it
// has one, and keeps, as bitswap does.
type memoryDAG struct {
	source   *memoryDAG
	delay    time.Duration // of every request
	requests atomic.Int64

	mu     sync.RWMutex
	blocks map[cid.Cid]blocks.Block
}

func newBlocks() *memoryDAG { return &memoryDAG{blocks: make(map[cid.Cid]blocks.Block)} }

// Get implements ipld.DAGService.
func (d *memoryDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	block, ok := d.block(c)
	if !ok {
		var err error
		if block, err = d.request(ctx, c); err != nil {
			return nil, err
		}
	}
	return merkledag.DecodeProtobufBlock(block)
}

// GetMany implements ipld.DAGService. It makes all requests at once.
func (d *memoryDAG) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
	found := make(chan *ipld.NodeOption, len(cids))
	var getting sync.WaitGroup
	for _, c := range cids {
		getting.Go(func() {
			node, err := d.Get(ctx, c)
			found <- &ipld.NodeOption{Node: node, Err: err}
		})
	}
	go func() { getting.Wait(); close(found) }()
	return found
}

// Add implements ipld.DAGService.
func (d *memoryDAG) Add(_ context.Context, node ipld.Node) error {
	d.keep(node)
	return nil
}

// AddMany implements ipld.DAGService.
func (d *memoryDAG) AddMany(_ context.Context, nodes []ipld.Node) error {
	for _, node := range nodes {
		d.keep(node)
	}
	return nil
}

// Remove implements ipld.DAGService.
func (d *memoryDAG) Remove(_ context.Context, c cid.Cid) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.blocks, c)
	return nil
}

// RemoveMany implements ipld.DAGService.
func (d *memoryDAG) RemoveMany(ctx context.Context, cids []cid.Cid) error {
	for _, c := range cids {
		_ = d.Remove(ctx, c) // never fails
	}
	return nil
}

func (d *memoryDAG) request(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if d.source == nil {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	d.requests.Add(1)
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	block, ok := d.source.block(c)
	if !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	d.keep(block)
	return block, nil
}

func (d *memoryDAG) block(c cid.Cid) (blocks.Block, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	block, ok := d.blocks[c]
	return block, ok
}

// keep drops what was decoded, so that every Get decodes a node of its own, as with
// blocks from a disk or a network.
func (d *memoryDAG) keep(b blocks.Block) {
	bare, _ := blocks.NewBlockWithCid(b.RawData(), b.Cid()) // fails only in debug mode
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks[b.Cid()] = bare
}
