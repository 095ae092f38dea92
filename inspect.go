package crdt

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Stats is a glance at what a replica is doing.
type Stats struct {
	Heads      []Head // of all DAGs
	MaxHeight  uint64 // the greatest height among the heads
	QueuedJobs int    // blocks known to be missing

	// VoidElements is how many elements and tombstones of merged blocks have
	// been left out since the start, because their keys can hold no value: see
	// ErrInvalidKey.
	VoidElements uint64

	// LastCheckpoint is the highest checkpoint of the unnamed DAG that has been made,
	// checked or taken here. Its Cid is undefined if there is none, and BlocksSince is
	// the number of all blocks.
	LastCheckpoint CheckpointStats

	// VoidCheckpoints is how many checkpoints have been found since the start whose
	// snapshot is malformed, or not what the blocks say: their authors are not to be
	// trusted. The log names them. On a replica that has taken a checkpoint that one may be
	// wrong instead: see docs/operations.md.
	VoidCheckpoints uint64
}

// CheckpointStats tell of a checkpoint.
type CheckpointStats struct {
	Head
	Held    time.Time // when it was made, checked or taken here
	Entries uint64    // in its snapshot: live versions, and removals of versions that may still come

	// BlocksSince is by how many blocks the unnamed DAG has grown since then. What came
	// before the last start is known by its height alone, and may be more.
	BlocksSince int64
}

// InternalStats returns the current Stats. After Close it is empty.
func (d *Datastore) InternalStats(context.Context) Stats {
	if d.enter() != nil {
		return Stats{}
	}
	defer d.leave()
	heads, _ := d.frontier.tips()
	s := Stats{
		Heads:           heads.list(),
		QueuedJobs:      d.fetcher.len(),
		VoidElements:    d.committer.leftOut.Load(),
		LastCheckpoint:  d.lastCheckpoint(),
		VoidCheckpoints: d.checkpointer.voids.Load(),
	}
	for _, h := range s.Heads {
		s.MaxHeight = max(s.MaxHeight, h.Height)
	}
	return s
}

func (d *Datastore) lastCheckpoint() (last CheckpointStats) {
	for _, cp := range d.frontier.checkpoints().held().of("") {
		if !last.Cid.Defined() || cp.tip.Height > last.Height {
			last = CheckpointStats{Head: cp.head(), Held: cp.since, Entries: cp.snapshot.entries}
		}
	}
	last.BlocksSince = d.committer.grown.blocks.Load()
	return last
}

// PrintDAG prints all blocks below the heads to standard output, a line each:
// CID, height, DAG name, and how many elements, tombstones and links it has.
// Like Traverse, it keeps all CIDs in memory.
func (d *Datastore) PrintDAG(ctx context.Context) error {
	return d.inspect(ctx, func(b *block) error {
		_, err := fmt.Printf("%s height=%d dag=%q elements=%d tombstones=%d links=%d\n",
			b.id.Cid(), b.delta.priority, b.delta.dagName, len(b.delta.elements), len(b.delta.tombstones), len(b.links))
		return err
	})
}

// DotDAG writes all blocks below the heads as a graph in Graphviz's DOT
// language, with an arrow from each block to those it links to. Like
// Traverse, it keeps all CIDs in memory.
func (d *Datastore) DotDAG(ctx context.Context, w io.Writer) error {
	if _, err := fmt.Fprintln(w, "digraph CRDT {"); err != nil {
		return err
	}
	if err := d.inspect(ctx, func(b *block) error { return writeDot(w, b) }); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "}")
	return err
}

func writeDot(w io.Writer, b *block) error {
	name := b.id.Cid().String()
	_, err := fmt.Fprintf(w, "\t%q [label=%q];\n", name, fmt.Sprintf("%d | %s | +%d -%d",
		b.delta.priority, name[len(name)-6:], len(b.delta.elements), len(b.delta.tombstones)))
	for _, link := range b.links {
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "\t%q -> %q;\n", name, link.Cid())
	}
	return err
}

// inspect shows every block below the heads.
func (d *Datastore) inspect(ctx context.Context, show func(*block) error) (err error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	heads, _ := d.frontier.tips()
	return d.blocks.traverse(ctx, heads.ids(), &traversal{}, func(_ blockID, b *block, err error) error {
		if err != nil {
			return err
		}
		return show(b)
	})
}
