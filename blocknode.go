package crdt

import (
	"sync"

	blocks "github.com/ipfs/go-block-format"
	ipld "github.com/ipfs/go-ipld-format"
	dag "github.com/ipfs/go-merkledag"
)

// A blockNode is a block as the node that a DAG service takes. Those look at
// the bytes and the CID; whatever else they may ask for is decoded then.
type blockNode struct {
	blocks.Block
	decoded func() *dag.ProtoNode
}

var _ ipld.Node = (*blockNode)(nil)

func (b *block) node() ipld.Node {
	raw, _ := blocks.NewBlockWithCid(b.raw, b.id.Cid()) // checks only in a debug mode of its own
	return &blockNode{raw, sync.OnceValue(func() *dag.ProtoNode {
		node, err := decodeNode(b.raw)
		if err != nil {
			panic(err) // it has been encoded here, or decoded before
		}
		return node
	})}
}

// Resolve implements ipld.Resolver.
func (n *blockNode) Resolve(path []string) (any, []string, error) { return n.decoded().Resolve(path) }

// Tree implements ipld.Resolver.
func (n *blockNode) Tree(path string, depth int) []string { return n.decoded().Tree(path, depth) }

// ResolveLink implements ipld.Node.
func (n *blockNode) ResolveLink(path []string) (*ipld.Link, []string, error) {
	return n.decoded().ResolveLink(path)
}

// Copy implements ipld.Node.
func (n *blockNode) Copy() ipld.Node { return n.decoded().Copy() }

// Links implements ipld.Node.
func (n *blockNode) Links() []*ipld.Link { return n.decoded().Links() }

// Stat implements ipld.Node.
func (n *blockNode) Stat() (*ipld.NodeStat, error) { return n.decoded().Stat() }

// Size implements ipld.Node.
func (n *blockNode) Size() (uint64, error) { return n.decoded().Size() }
