package main

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// A dag is the DAG service of a replica. What it lacks it asks other peers for, one after
// the other: first those in the mesh, then anybody. Bitswap asks several at once, and gets
// a small block as often.
type dag struct {
	net  *network
	peer *peer

	mu     sync.Mutex
	blocks map[cid.Cid]blocks.Block
	wanted map[cid.Cid]chan struct{} // closed when the block comes
}

const (
	wantBytes     = 40              // a CID and what is wanted of it
	blockPatience = 2 * time.Second // for an answer
)

func newDAG(net *network, p *peer) *dag {
	return &dag{net: net, peer: p, blocks: make(map[cid.Cid]blocks.Block), wanted: make(map[cid.Cid]chan struct{})}
}

// Get implements ipld.DAGService.
func (d *dag) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	block, coming := d.look(c)
	for try := 0; block == nil; try++ {
		if err := d.ask(ctx, try, c, coming); err != nil {
			return nil, err
		}
		block, coming = d.look(c)
	}
	return merkledag.DecodeProtobufBlock(block)
}

// look returns a block, or what is closed when it comes.
func (d *dag) look(c cid.Cid) (blocks.Block, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if block, ok := d.blocks[c]; ok {
		return block, nil
	}
	coming := d.wanted[c]
	if coming == nil {
		coming = make(chan struct{})
		d.wanted[c] = coming
	}
	return nil, coming
}

// ask asks one peer for a block, and returns when it has come, by whatever way, or will not
// come from there.
func (d *dag) ask(ctx context.Context, try int, c cid.Cid, coming <-chan struct{}) error {
	lacks := make(chan struct{}, 1)
	d.net.requestBlock(d.peer, try, c, lacks)
	patience := time.NewTimer(blockPatience)
	defer patience.Stop()
	select {
	case <-coming:
	case <-lacks:
	case <-patience.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// keep drops what was decoded, so that every Get decodes a node of its own, and keeps the bytes
// that others keep.
func (d *dag) keep(b blocks.Block) {
	b = d.net.pool.share(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks[b.Cid()] = b
	if coming := d.wanted[b.Cid()]; coming != nil {
		close(coming)
		delete(d.wanted, b.Cid())
	}
}

func (d *dag) held(c cid.Cid) blocks.Block {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.blocks[c]
}

// GetMany implements ipld.DAGService.
func (d *dag) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
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
func (d *dag) Add(_ context.Context, node ipld.Node) error {
	d.keep(node)
	return nil
}

// AddMany implements ipld.DAGService.
func (d *dag) AddMany(_ context.Context, nodes []ipld.Node) error {
	for _, node := range nodes {
		d.keep(node)
	}
	return nil
}

// Remove implements ipld.DAGService.
func (d *dag) Remove(_ context.Context, c cid.Cid) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.blocks, c)
	return nil
}

// RemoveMany implements ipld.DAGService.
func (d *dag) RemoveMany(ctx context.Context, cids []cid.Cid) error {
	for _, c := range cids {
		_ = d.Remove(ctx, c) // never fails
	}
	return nil
}

// requestBlock sends a request, the first tries to neighbours.
func (n *network) requestBlock(by *peer, try int, c cid.Cid, lacks chan<- struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if try == 0 {
		n.traffic.wanted++
	}
	to := by.mesh[n.rng.IntN(len(by.mesh))]
	if others := by.strangersLocked(n, 1); try >= len(by.mesh) && len(others) > 0 {
		to = others[0]
	}
	n.traffic.wants++
	n.sendLocked(by, to, frameBytes+wantBytes, wantBlock{c, lacks}, &n.traffic.blockBytes)
}

// wantBlock asks for a block.
type wantBlock struct {
	cid   cid.Cid
	lacks chan<- struct{}
}

func (w wantBlock) arrive(n *network, from, to *peer) {
	if b := to.dag.held(w.cid); b != nil {
		n.sendLocked(to, from, frameBytes+wantBytes+len(b.RawData()), giveBlock{b}, &n.traffic.blockBytes)
	} else {
		n.sendLocked(to, from, frameBytes+wantBytes, lackBlock{w.lacks}, &n.traffic.blockBytes)
	}
}

type giveBlock struct{ block blocks.Block }

func (g giveBlock) arrive(n *network, _, to *peer) {
	n.traffic.given++
	to.dag.keep(g.block)
}

type lackBlock struct{ told chan<- struct{} }

func (l lackBlock) arrive(n *network, _, _ *peer) {
	n.traffic.notFound++
	l.told <- struct{}{} // it has room for one
}

// A pool is all blocks that there are. DAG services keep the same bytes, or else there would not
// be memory for all.
type pool struct {
	mu     sync.Mutex
	blocks map[cid.Cid]blocks.Block
}

func newPool() pool { return pool{blocks: make(map[cid.Cid]blocks.Block)} }

func (p *pool) share(b blocks.Block) blocks.Block {
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared, ok := p.blocks[b.Cid()]; ok {
		return shared
	}
	bare, _ := blocks.NewBlockWithCid(b.RawData(), b.Cid()) // fails only in debug mode
	p.blocks[b.Cid()] = bare
	return bare
}
