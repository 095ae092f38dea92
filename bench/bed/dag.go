// Package bed is what benchmarks put replicas on: stores, DAG services and broadcasters,
// all in memory but for the stores. It uses only what the released module exports as well.
package bed

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// DAG is a DAG service in memory. What it lacks it requests from its sources, if it
// has any, and keeps, as bitswap does.
type DAG struct {
	Sources  []*DAG
	Delay    time.Duration // of every request
	Requests atomic.Int64
	Fetched  atomic.Int64 // bytes that the sources gave
	Added    atomic.Int64 // blocks, also those that were there

	mu     sync.RWMutex
	blocks map[cid.Cid]blocks.Block
}

// NewDAG makes an empty one.
func NewDAG() *DAG { return &DAG{blocks: make(map[cid.Cid]blocks.Block)} }

// Get implements ipld.DAGService.
func (d *DAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	block, ok := d.block(c)
	if !ok {
		var err error
		if block, err = d.request(ctx, c); err != nil {
			return nil, err
		}
	}
	if c.Type() == cid.Raw {
		return merkledag.NewRawNodeWPrefix(block.RawData(), c.Prefix())
	}
	return merkledag.DecodeProtobufBlock(block)
}

// GetMany implements ipld.DAGService. It makes all requests at once.
func (d *DAG) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
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
func (d *DAG) Add(_ context.Context, node ipld.Node) error {
	d.Added.Add(1)
	d.keep(node)
	return nil
}

// AddMany implements ipld.DAGService.
func (d *DAG) AddMany(ctx context.Context, nodes []ipld.Node) error {
	for _, node := range nodes {
		_ = d.Add(ctx, node) // never fails
	}
	return nil
}

// Remove implements ipld.DAGService.
func (d *DAG) Remove(_ context.Context, c cid.Cid) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.blocks, c)
	return nil
}

// RemoveMany implements ipld.DAGService.
func (d *DAG) RemoveMany(ctx context.Context, cids []cid.Cid) error {
	for _, c := range cids {
		_ = d.Remove(ctx, c) // never fails
	}
	return nil
}

func (d *DAG) request(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if len(d.Sources) == 0 {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	d.Requests.Add(1)
	select {
	case <-time.After(d.Delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for _, source := range d.Sources {
		if block, ok := source.block(c); ok {
			d.Fetched.Add(int64(len(block.RawData())))
			d.keep(block)
			return block, nil
		}
	}
	return nil, ipld.ErrNotFound{Cid: c}
}

func (d *DAG) block(c cid.Cid) (blocks.Block, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	block, ok := d.blocks[c]
	return block, ok
}

// keep drops what was decoded, so that every Get decodes a node of its own, as with
// blocks from a disk or a network.
func (d *DAG) keep(b blocks.Block) {
	bare, _ := blocks.NewBlockWithCid(b.RawData(), b.Cid()) // fails only in debug mode
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks[b.Cid()] = bare
}

// All returns the blocks there are.
func (d *DAG) All() []blocks.Block {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.blocks))
}

// Weight is how many blocks there are, and their bytes.
func (d *DAG) Weight() (count int, bytes int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, b := range d.blocks {
		bytes += int64(len(b.RawData()))
	}
	return len(d.blocks), bytes
}
