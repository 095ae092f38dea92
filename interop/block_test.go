package interop

import (
	"crypto/sha256"
	"encoding/base32"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"
)

// A dagBlock is a block as the tests make it, by hand and not with the code under test: what
// is on the wire is a contract.
type dagBlock struct {
	delta delta
	heads []*dagBlock // that it replaces
	skips []*dagBlock // that it links to as well

	raw []byte // the bytes of the block
	cid cid.Cid
}

// delta is the change set of a block.
type delta struct {
	elements   []element
	tombstones []tombstone
	priority   uint64
	dag        string
	tag        string // what makes it another delta than an equal one; ours have one
}

type element struct{ key, value string }

// tombstone removes the version that a block gave to a key.
type tombstone struct {
	key string
	id  string // of the block, as dagBlock.id has it
}

// newBlock makes a block, whose CID is then fixed.
func newBlock(d delta, heads []*dagBlock, skips ...*dagBlock) *dagBlock {
	b := &dagBlock{delta: d, heads: heads, skips: skips}
	b.raw = b.encode()
	b.cid = cidOf(b.raw)
	return b
}

func cidOf(raw []byte) cid.Cid {
	const sha2_256 = 0x12
	sum := sha256.Sum256(raw)
	return cid.NewCidV1(cid.DagProtobuf, append([]byte{sha2_256, sha256.Size}, sum[:]...))
}

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// id is how tombstones name the block, and the last part of its rows.
func (b *dagBlock) id() string { return "/" + base32Upper.EncodeToString(b.cid.Hash()) }

func (b *dagBlock) links() []*dagBlock {
	return append(b.heads[:len(b.heads):len(b.heads)], b.skips...)
}

// encode makes the dag-pb node: links, then data.
func (b *dagBlock) encode() []byte {
	var node []byte
	for _, head := range b.heads {
		node = appendBytes(node, 2, link(head, ""))
	}
	for _, skip := range b.skips {
		node = appendBytes(node, 2, link(skip, "skip"))
	}
	return appendBytes(node, 1, b.delta.encode())
}

func link(to *dagBlock, name string) []byte {
	l := appendBytes(nil, 1, to.cid.Bytes())
	l = appendBytes(l, 2, []byte(name))
	return appendUint(l, 3, 0)
}

// encode leaves out fields that are empty, as protobuf has it.
func (d delta) encode() []byte {
	var b []byte
	for _, e := range d.elements {
		b = appendBytes(b, 1, appendText(appendText(nil, 1, e.key), 3, e.value))
	}
	for _, t := range d.tombstones {
		b = appendBytes(b, 2, appendText(appendText(nil, 1, t.key), 2, t.id))
	}
	if d.priority > 0 {
		b = appendUint(b, 3, d.priority)
	}
	return appendText(appendText(b, 4, d.dag), 101, d.tag)
}

// announcement is the broadcast that announces heads.
func announcement(heads ...*dagBlock) []byte {
	var b []byte
	for _, h := range heads {
		b = appendBytes(b, 1, appendText(appendBytes(nil, 1, h.cid.Bytes()), 2, h.delta.dag))
	}
	return b
}

func appendBytes(b []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
}

func appendText(b []byte, field protowire.Number, value string) []byte {
	if value == "" {
		return b
	}
	return appendBytes(b, field, []byte(value))
}

func appendUint(b []byte, field protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), value)
}
