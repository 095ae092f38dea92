package crdt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
	dagpb "github.com/ipfs/go-merkledag/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// A block is a delta in its dag-pb node, with links to what it builds on.
type block struct {
	id            blockID
	raw           []byte
	delta         *deltaContent
	links         []blockID
	v0            map[blockID]bool // the links that have CIDs of version 0; mostly nil
	skips         int              // how many of the links, the last ones, are skip links
	summed        []blockID        // the links of a summary, which has no others
	namesSnapshot bool             // it is known, and its delta may be that of a checkpoint
	queued        bool             // it may have a queue row, though no block waits for it
	neverHead     bool             // below a complete block: it must not become a head
}

// link adds a link to a block that is being read.
func (b *block) link(l link) {
	b.links = append(b.links, l.id)
	if l.v0 {
		setIn(&b.v0, l.id, true)
	} else {
		delete(b.v0, l.id)
	}
}

// linkTo is the link of a block to another.
func (b *block) linkTo(id blockID) link { return link{id, b.v0[id]} }

// head is the block as a head.
func (b *block) head() Head { return Head{Cid: b.id.Cid(), HeadValue: b.tip()} }

func (b *block) tip() HeadValue {
	return HeadValue{Height: b.delta.priority, DAGName: b.delta.dagName}
}

// readLinks reads the different blocks that a node links to, and how many of
// them, at the end, are those of skip links. Links that lead to no block are left
// out, and one of them is told of.
func (b *block) readLinks(node ipld.Node) (bad error) {
	links := node.Links()
	seen := make(map[blockID]bool, len(links))
	b.links = make([]blockID, 0, len(links))
	for _, l := range links {
		to, err := linkOf(l.Cid)
		if err != nil {
			bad = err
			continue
		}
		if seen[to.id] {
			if !to.v0 {
				delete(b.v0, to.id)
			}
			continue
		}
		seen[to.id] = true
		b.link(to)
		if b.skips++; l.Name != skipLink {
			b.skips = 0
		}
	}
	return bad
}

// skipLink is the name of a link to an older block (see skips.go). Links to the
// heads that a block replaces have no name.
const skipLink = "skip"

// encodeNode writes a dag-pb node. The last links are skip links: sorted by
// their names, as dag-pb wants them.
func encodeNode(data []byte, links []blockID, skips int) ([]byte, error) {
	node := dagpb.PBNode{Data: data, Links: make([]*dagpb.PBLink, len(links))}
	head, skip, size := "", skipLink, uint64(0)
	for i, id := range links {
		l := &dagpb.PBLink{Hash: id.Cid().Bytes(), Name: &head, Tsize: &size}
		if i >= len(links)-skips {
			l.Name = &skip
		}
		node.Links[i] = l
	}
	return node.Marshal()
}

// decodeNode reads a dag-pb node, strictly.
func decodeNode(raw []byte) (*merkledag.ProtoNode, error) {
	node, err := merkledag.DecodeProtobuf(raw)
	if err != nil {
		return nil, err
	}
	return node, node.SetCidBuilder(blockPrefix)
}

// decodeLinks reads the links of a dag-pb node. It is much faster than
// decodeNode, and looks at nothing else.
func decodeLinks(raw []byte) (links []link, err error) {
	err = eachField(raw, linksField, func(msg []byte) error {
		return eachField(msg, hashField, func(hash []byte) error {
			l, err := linkFromBytes(hash)
			links = append(links, l)
			return err
		})
	})
	return links, err
}

// Numbers of fields in the messages of dag-pb: PBNode.Data, PBNode.Links and
// PBLink.Hash.
const (
	dataField  = 1
	linksField = 2
	hashField  = 1
)

// eachField calls f with each field of a protobuf message that has a number and
// holds bytes.
func eachField(msg []byte, number protowire.Number, f func([]byte) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		if num == number && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(msg[n:])
			if err := f(v); err != nil {
				return err
			}
		}
		msg = msg[n+size:]
	}
	return nil
}

// errWrongBytes marks bytes that are not the block that was asked for. Unlike
// ErrInvalidBlock it says nothing about the block.
var errWrongBytes = errors.New("crdt: the bytes do not match the CID")

func checkBytes(id blockID, raw []byte) error {
	if sha256.Sum256(raw) != id {
		return fmt.Errorf("%w %s", errWrongBytes, id.Cid())
	}
	return nil
}

// A blockNode is a block as the node that a DAG service takes. Those look at
// the bytes and the CID; whatever else they may ask for is decoded then.
type blockNode struct {
	blocks.Block
	decoded func() *merkledag.ProtoNode
}

var _ ipld.Node = (*blockNode)(nil)

func (b *block) node() ipld.Node { return newBlockNode(b.id, b.raw) }

func newBlockNode(id blockID, raw []byte) *blockNode {
	b, _ := blocks.NewBlockWithCid(raw, id.Cid()) // checks only in a debug mode of its own
	return &blockNode{b, sync.OnceValue(func() *merkledag.ProtoNode {
		node, err := decodeNode(raw)
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
