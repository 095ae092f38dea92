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

// A blockID names a block: the SHA2-256 digest in its CID. All blocks have
// CIDs of one form (version 1, dag-pb, sha2-256), so the digest says it all.
type blockID [sha256.Size]byte

// blockPrefix is the form of every block's CID.
var blockPrefix = cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: mh.SHA2_256, MhLength: sha256.Size}

// multihashHead precedes the digest in a block's multihash.
var multihashHead = []byte{mh.SHA2_256, sha256.Size}

const multihashLength = 2 + sha256.Size

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// blockIDOf returns the id in a CID, or an error for a CID that no block has.
func blockIDOf(c cid.Cid) (blockID, error) {
	if !c.Defined() || c.Prefix() != blockPrefix {
		return blockID{}, fmt.Errorf("%w: %s is no CIDv1 with dag-pb and sha2-256", ErrInvalidBlock, c)
	}
	return blockID(c.Hash()[len(multihashHead):]), nil
}

// blockIDFromBytes does so for the bytes of a CID.
func blockIDFromBytes(b []byte) (blockID, error) {
	c, err := cid.Cast(b)
	if err != nil {
		return blockID{}, err
	}
	return blockIDOf(c)
}

func (id blockID) multihash() (m [multihashLength]byte) {
	copy(m[copy(m[:], multihashHead):], id[:])
	return m
}

// Cid returns the CID of the block.
func (id blockID) Cid() cid.Cid {
	multihash := id.multihash()
	return cid.NewCidV1(cid.DagProtobuf, multihash[:])
}

// nameLength is the length of a block's name: of its multihash in base32.
const nameLength = multihashLength*8/5 + 1

// String returns the upper-case base32 multihash that names the block in the
// store.
func (id blockID) String() string { return id.dsKey()[1:] }

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
	if err != nil || len(b) != multihashLength || !bytes.HasPrefix(b, multihashHead) {
		return id, false
	}
	return blockID(b[len(multihashHead):]), true
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
