package crdt

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"time"

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

// A checkpoint is what is known of one that has been merged. It is kept in a row, and
// in memory as long as that is there. It is never changed in place.
type checkpoint struct {
	id       blockID
	tip      HeadValue
	snapshot snapshotName
	links    []blockID // the heads that were folded
	state    checkpointState

	// Of one that is held:
	since    time.Time // when it came to be so
	segments []segment // of its cover
	taken    bool      // it was taken, or folded on one that was: no own fold has proved it
	disputed bool      // it is one of two that contradict each other, one of which was taken

	// Of one that is being taken:
	done     uint64 // how many entries have been added, also of one that was left
	removals bool   // versions may have to be removed
}

type checkpointState byte

const (
	checkpointSeen    checkpointState = iota // merged; its snapshot has not been judged
	checkpointWanted                         // to be taken: its pages are being fetched and checked, and no blocks lower than it are fetched
	checkpointTaking                         // no block of its cover is fetched or merged from now on
	checkpointTold                           // held, and those that wait for its cover have still to be told
	checkpointHeld                           // its cover counts as marks
	checkpointVoid                           // its snapshot is malformed, or not what its links say
	checkpointDropped                        // another covers it, which is held: its pages and segments are being removed
	checkpointPurged                         // its DAG is being purged: what it has brought is being forgotten

	lastCheckpointState = checkpointPurged
)

// held reports whether the cover of a checkpoint counts as marks.
func (s checkpointState) held() bool { return s == checkpointTold || s == checkpointHeld }

// hides reports whether the blocks of its cover must be neither fetched nor merged.
func (s checkpointState) hides() bool { return s == checkpointTaking || s == checkpointPurged }

// idle reports whether nothing rests on what is known of a checkpoint. Without its row it
// is a block like any other. Of one whose take was left, versions are here.
func (cp *checkpoint) idle() bool {
	return cp.done == 0 && (cp.state == checkpointSeen || cp.state == checkpointVoid)
}

// maxFolded is how many heads a checkpoint can be made of. Their ids are kept in memory.
const maxFolded = 1024

// checkpoint returns what is known of a checkpoint when it is merged; nil: the block is
// none.
func (b *block) checkpoint() *checkpoint {
	if b.delta.snapshot == nil || len(b.links) == 0 || len(b.links) > maxFolded {
		return nil
	}
	return &checkpoint{id: b.id, tip: b.tip(), snapshot: *b.delta.snapshot, links: b.links}
}

// checkpoints are those that are known, by their blocks.
type checkpoints map[blockID]*checkpoint

// maxIdle bounds how many checkpoints are known of which nothing is made: with them
// peers could fill the memory.
const maxIdle = 256

// A checkpointsChange is what a commit does to them.
type checkpointsChange struct {
	overlay[checkpoints, *checkpoint]
}

func (c *checkpointsChange) set(cp *checkpoint) { c.add(cp.id, cp) }

// see takes notice of a checkpoint that is merged now, in the place of another if there
// are too many.
func (c *checkpointsChange) see(cp *checkpoint) {
	if least, n := c.now.leastIdle(); n >= maxIdle {
		c.remove(least.id)
	}
	c.set(cp)
}

// forget drops a checkpoint whose block is being purged. One that is held, or has to do
// with a take, is not dropped here.
func (c *checkpointsChange) forget(id blockID) {
	if cp := c.now[id]; cp != nil && cp.idle() {
		c.remove(id)
	}
}

// held returns those checkpoints whose cover counts as marks.
func (all checkpoints) held() checkpoints {
	held := make(checkpoints)
	for id, cp := range all {
		if cp.state.held() {
			held[id] = cp
		}
	}
	return held
}

// of returns those of a DAG.
func (all checkpoints) of(dagName string) checkpoints {
	mine := make(checkpoints)
	for id, cp := range all {
		if cp.tip.DAGName == dagName {
			mine[id] = cp
		}
	}
	return mine
}

// segments returns those of the covers of checkpoints, each once.
func (all checkpoints) segments() []segment { return segmentsOf(maps.Values(all)) }

// segmentsOf returns those of the covers of some checkpoints, each once.
func segmentsOf(some iter.Seq[*checkpoint]) (segments []segment) {
	seen := make(map[segment]bool)
	for cp := range some {
		for _, seg := range cp.segments {
			if !seen[seg] {
				seen[seg] = true
				segments = append(segments, seg)
			}
		}
	}
	return segments
}

// heldSegments returns the segments of the covers that count as marks.
func (all checkpoints) heldSegments() []segment { return all.held().segments() }

// use reports which segments checkpoints have, by their roots.
func (all checkpoints) use() map[blockID]bool {
	used := make(map[blockID]bool)
	for _, seg := range all.segments() {
		used[seg.root] = true
	}
	return used
}

// unused returns the segments that no checkpoint has any more once the commit is made.
func (c *checkpointsChange) unused() (segments []segment) {
	used := c.now.use()
	for id, was := range c.before {
		if c.now[id] == was {
			continue
		}
		for _, seg := range was.segments {
			if !used[seg.root] {
				segments = append(segments, seg)
			}
		}
	}
	return segments
}

// leastIdle returns the idle checkpoint that is worth least, and how many there are.
func (all checkpoints) leastIdle() (least *checkpoint, n int) {
	for _, cp := range all {
		if !cp.idle() {
			continue
		}
		if n++; least == nil || cp.isWorth(least) < 0 {
			least = cp
		}
	}
	return least, n
}

// isWorth compares idle checkpoints: void ones are worth least, and then low ones.
func (cp *checkpoint) isWorth(o *checkpoint) int {
	return cmp.Or(cmp.Compare(o.state, cp.state), cmp.Compare(cp.tip.Height, o.tip.Height), cp.id.compare(o.id))
}

// bringsCheckpoint reports whether the commit changes what is known of a checkpoint, or
// completes one.
func (c *commit) bringsCheckpoint() bool {
	if c.checkpoints.changed || len(c.checkpoints.now) == 0 {
		return c.checkpoints.changed
	}
	for _, id := range c.dag.completed {
		if c.checkpoints.now[id] != nil {
			return true
		}
	}
	return false
}

// loadCheckpoints reads what the store knows of checkpoints.
func (s *rowStore) loadCheckpoints(ctx context.Context) (checkpoints, error) {
	all := make(checkpoints)
	for e, err := range s.rowsOf(ctx, s.keys.checkpoints, 1, false) {
		var cp *checkpoint
		if err == nil {
			cp, err = decodeCheckpoint(e.Key, e.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("crdt: loading checkpoints: %w", err)
		}
		all[cp.id] = cp
	}
	return all, nil
}
