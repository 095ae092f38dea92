package crdt

import "time"

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
	checkpointVoid                           // its snapshot is malformed, or not what is folded here of its links
	checkpointRetired                        // nothing rests on it any more: its pages and segments are to be swept
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
