package crdt

import (
	"fmt"

	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// A snapshotName is what the delta of a checkpoint says of its snapshot: where it is,
// and how large.
type snapshotName struct {
	versions, cover        blockID // the roots of their pages
	entries, bytes, blocks uint64  // versions and open tombstones; their keys and values; the cover
}

// checkpointField is the number of Delta.checkpoint.
const checkpointField = 100

// readSnapshot finds out whether a delta is that of a checkpoint. If it has anything
// else to say, it is like any other, and so it is if the snapshot has no name.
func (c *deltaContent) readSnapshot() {
	if ours, ok := c.from.(*pbDelta); ok && ours.GetCheckpoint() != nil && !c.summary && ours.IsEmpty() {
		c.snapshot = readSnapshotName(ours.GetCheckpoint())
	}
}

func readSnapshotName(m *pb.Checkpoint) *snapshotName {
	versions, err := linkFromBytes(m.GetVersions())
	if err != nil || versions.v0 {
		return nil
	}
	cover, err := linkFromBytes(m.GetCover())
	if err != nil || cover.v0 {
		return nil
	}
	return &snapshotName{versions.id, cover.id, m.GetEntries(), m.GetBytes(), m.GetBlocks()}
}

func (n *snapshotName) String() string {
	return fmt.Sprintf("%d entries of %d bytes in %s, of %d blocks", n.entries, n.bytes, n.versions.Cid(), n.blocks)
}

// tree is that of the versions and the open tombstones.
func (n *snapshotName) tree() treeRoot { return treeRoot{n.versions, n.entries, n.bytes} }

// message is what readSnapshotName reads.
func (n *snapshotName) message() *pb.Checkpoint {
	return &pb.Checkpoint{Versions: n.versions.Cid().Bytes(), Cover: n.cover.Cid().Bytes(), Entries: n.entries, Bytes: n.bytes, Blocks: n.blocks}
}

// withoutField returns a protobuf message without the fields of a number, as far as it
// can be read.
func withoutField(msg []byte, number protowire.Number) (rest []byte) {
	for len(msg) > 0 {
		num, _, n := protowire.ConsumeField(msg)
		if n < 0 {
			return append(rest, msg...)
		}
		if num != number {
			rest = append(rest, msg[:n]...)
		}
		msg = msg[n:]
	}
	return rest
}
