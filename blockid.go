package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	cid "github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

// A blockID names a block: the SHA2-256 digest in its CID. All blocks are dag-pb
// nodes with such digests, so the digest says it all.
type blockID [sha256.Size]byte

// A link is a block as another, or an announcement, names it: by a CID of version
// 1, as all that are written now, or of version 0, as in histories that began
// before 2021. It is one block, but a DAG service may find it by that CID alone.
type link struct {
	id blockID
	v0 bool
}

// blockPrefix is the form of the CID of every block that is made here.
var blockPrefix = cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: mh.SHA2_256, MhLength: sha256.Size}

// multihashHead precedes the digest in a block's multihash.
var multihashHead = []byte{mh.SHA2_256, sha256.Size}

const multihashLength = 2 + sha256.Size

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// linkOf reads a CID. It returns an error for one that no block has.
func linkOf(c cid.Cid) (link, error) {
	if !c.Defined() {
		return link{}, fmt.Errorf("%w: an undefined CID", ErrInvalidBlock)
	}
	id, ok := blockIDIn(c.Hash())
	if !ok || c.Type() != cid.DagProtobuf {
		return link{}, fmt.Errorf("%w: %s is not a CID with dag-pb and sha2-256", ErrInvalidBlock, c)
	}
	return link{id, c.Version() == 0}, nil
}

// linkFromBytes does so for the bytes of a CID.
func linkFromBytes(b []byte) (link, error) {
	c, err := cid.Cast(b)
	if err != nil {
		return link{}, err
	}
	return linkOf(c)
}

// blockIDOf returns the id in a CID, or an error for a CID that no block has.
func blockIDOf(c cid.Cid) (blockID, error) {
	l, err := linkOf(c)
	return l.id, err
}

// cidsToIDs turns CIDs given by a user into block ids.
func cidsToIDs(cids []cid.Cid) ([]blockID, error) {
	ids := make([]blockID, len(cids))
	for i, c := range cids {
		var err error
		if ids[i], err = blockIDOf(c); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// blockIDIn returns the id in a multihash, if a block can have it.
func blockIDIn(hash mh.Multihash) (blockID, bool) {
	if len(hash) != multihashLength || !bytes.HasPrefix(hash, multihashHead) {
		return blockID{}, false
	}
	return blockID(hash[len(multihashHead):]), true
}

// Cid returns the CID that the link has.
func (l link) Cid() cid.Cid {
	if !l.v0 {
		return l.id.Cid()
	}
	multihash := l.id.multihash()
	return cid.NewCidV0(multihash[:])
}

func (id blockID) multihash() (m [multihashLength]byte) {
	copy(m[copy(m[:], multihashHead):], id[:])
	return m
}

// Cid returns the CID of the block, of version 1.
func (id blockID) Cid() cid.Cid {
	multihash := id.multihash()
	return cid.NewCidV1(cid.DagProtobuf, multihash[:])
}

// nameLength is the length of a block's name: of its multihash in base32.
const nameLength = multihashLength*8/5 + 1

// String returns the upper-case base32 multihash that names the block in the
// store.
func (id blockID) String() string { return id.dsKey()[1:] }

func (id blockID) compare(other blockID) int { return bytes.Compare(id[:], other[:]) }

// dsKey is the id as it stands in tombstones: the name with a slash before it.
func (id blockID) dsKey() string { return id.under("") }

// under is the name of a block's row under a prefix. It is made in one piece:
// every commit needs some.
func (id blockID) under(prefix string) string {
	multihash := id.multihash()
	var name [1 + nameLength]byte
	name[0] = '/'
	base32Upper.Encode(name[1:], multihash[:])
	var b strings.Builder
	b.Grow(len(prefix) + len(name))
	b.WriteString(prefix)
	b.Write(name[:])
	return b.String()
}

// parseBlockID reads what String wrote, and nothing else: the decoder of base32
// skips line breaks, and does not look at the bits that are left over.
func parseBlockID(s string) (id blockID, ok bool) {
	if len(s) != nameLength || strings.IndexByte(lastLetters, s[nameLength-1]) < 0 {
		return id, false
	}
	b, err := base32Upper.DecodeString(s)
	if err != nil {
		return id, false
	}
	return blockIDIn(b)
}

// lastLetters are those that a name can end in: its last three bits are left
// over, and 0.
const lastLetters = "AIQY"

// parseDsKey reads what dsKey wrote.
func parseDsKey(s string) (blockID, bool) {
	if len(s) == 0 || s[0] != '/' {
		return blockID{}, false
	}
	return parseBlockID(s[1:])
}
