package crdt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	cid "github.com/ipfs/go-cid"
)

// Checkpoint makes a checkpoint of the unnamed DAG: a block that carries the joint effect
// of all blocks below it, so that a newcomer can fetch the live state in the place of the
// history. If nothing has changed since the last one, that is returned again.
//
// First it removes the versions that others have replaced (losers), for all replicas, in
// blocks of their own. It reads what has come since the last
// checkpoint, and writes what has changed: the first one reads all history. It fails if
// a block of it is not here, was refused, or is a summary of old peers, and names that
// block. Blocks that are written meanwhile are not part of it.
//
// Others may do whatever they like meanwhile, but another checkpoint, and what takes or
// drops one, waits. PurgeDAG ends it. It must not be called by a hook.
func (d *Datastore) Checkpoint(ctx context.Context) (Head, error) {
	return d.checkpoint(ctx, "")
}

// CheckpointDAG does what Checkpoint does, of the DAG of a name.
func (m *MerkleCRDT) CheckpointDAG(ctx context.Context, dagName string) (Head, error) {
	if err := checkDAGName(dagName); err != nil {
		return Head{}, err
	}
	return m.checkpoint(ctx, dagName)
}

func (d *Datastore) checkpoint(ctx context.Context, dagName string) (head Head, err error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return Head{}, err
	}
	defer end(&err)
	err = d.checkpointer.do(ctx, dagName, func(ctx context.Context) error {
		head, err = d.checkpointer.checkpointDAG(ctx, dagName, nil)
		return err
	})
	return head, err
}

// StateRoot returns the root of the versions tree of the unnamed DAG as it is now. It is
// the same on all replicas that have merged the same blocks, and of no other state. It says
// more than the pairs: when a checkpoint removes losers, it changes. It is that of the heads:
// blocks below which some are still missing do not count, though their pairs show. Like
// Checkpoint it reads what has come since the last checkpoint, waits for one that is being
// made or taken, and fails where that does; it writes nothing, so that what it names need
// not be anywhere. It must not be called by a hook.
func (d *Datastore) StateRoot(ctx context.Context) (_ cid.Cid, err error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return cid.Undef, err
	}
	defer end(&err)
	var root treeRoot
	err = d.checkpointer.do(ctx, "", func(ctx context.Context) error {
		heads, _ := d.frontier.tips()
		root, err = d.checkpointer.foldVersions(ctx, "", heads.of(""), noPages{})
		return err
	})
	if err != nil {
		return cid.Undef, err
	}
	return root.id.Cid(), nil
}

var (
	errNoHeads   = errors.New("crdt: there is nothing to make a checkpoint of: the DAG has no heads")
	errOwnDeltas = errors.New("crdt: a checkpoint needs the default deltas, and there is a MerkleCRDTOptions.DeltaFactory")
)

// A maker makes checkpoints. Its fields belong to the goroutine.
type maker struct {
	*checkpointJobs
	due dueCheckpoint
}

// checkpointDAG makes a checkpoint of a DAG, or gives it up with errLeftToPeer as soon as
// mayLeave says so, which may be nil.
func (m *maker) checkpointDAG(ctx context.Context, dagName string, mayLeave func() bool) (Head, error) {
	if _, ours := m.blocks.newDelta().(*pbDelta); !ours {
		return Head{}, errOwnDeltas
	}
	if head, ok := m.unchanged(dagName); ok {
		return head, nil
	}
	if mayLeave != nil && mayLeave() {
		return Head{}, errLeftToPeer
	}
	if err := m.tidy(ctx, dagName); err != nil {
		return Head{}, err
	}
	heads := m.headsToFold(dagName)
	if len(heads) == 0 {
		return Head{}, errNoHeads
	}
	f, err := m.fold(ctx, dagName, heads.ids(), m.blocks)
	if err != nil {
		return Head{}, err
	}
	if mayLeave != nil && mayLeave() {
		return Head{}, cmp.Or(m.discard(ctx, f.snapshot), errLeftToPeer)
	}
	return m.publish(ctx, dagName, heads, f)
}

// unchanged returns the head of a DAG if that is its only one, and a checkpoint that is
// held.
func (m *maker) unchanged(dagName string) (head Head, ok bool) {
	tips, _ := m.committer.frontier.tips()
	heads := tips.of(dagName)
	if len(heads) != 1 {
		return head, false
	}
	cp := m.committer.frontier.checkpoints()[heads[0]]
	if cp == nil || !cp.state.held() {
		return head, false
	}
	return cp.head(), true
}

func (cp *checkpoint) head() Head { return Head{Cid: cp.id.Cid(), HeadValue: cp.tip} }

// headsToFold returns the heads of a DAG that one checkpoint can be made of.
func (m *maker) headsToFold(dagName string) tips {
	all, _ := m.committer.frontier.tips()
	ids, heads := all.of(dagName), make(tips)
	for _, id := range ids[:min(len(ids), maxFolded, m.blocks.maxLinks())] {
		heads[id] = all[id]
	}
	return heads
}

// publish makes a folded snapshot a block, which is held from the same commit on.
func (m *maker) publish(ctx context.Context, dagName string, heads tips, f *folded) (head Head, err error) {
	covered, err := m.stage(ctx, f.segments)
	if err != nil {
		return Head{}, err
	}
	d := &pbDelta{}
	d.SetDagName(dagName)
	d.SetPriority(above(heads.maxHeight(dagName)))
	d.setCheckpoint(&f.snapshot)
	err = m.committer.do(ctx, func(now *commit) error {
		b, err := now.publishCheckpoint(context.WithoutCancel(ctx), d, heads.ids())
		if err != nil {
			return err
		}
		now.hold(b.checkpoint(), f, covered)
		head = b.head()
		return nil
	})
	if err == nil {
		m.log.Infof("checkpoint %s of DAG %q was made: %s", head.Cid, dagName, &f.snapshot)
	}
	return head, err
}

// stage writes the rows of a cover that is to be held, as far as they are not in use. It
// returns the checkpoints that it covers.
func (j *checkpointJobs) stage(ctx context.Context, segments []segment) (covered []blockID, err error) {
	used := j.committer.frontier.checkpoints().held().segments()
	fresh := slices.DeleteFunc(slices.Clone(segments), func(s segment) bool { return slices.Contains(used, s) })
	if err := j.committer.stageSegments(ctx, fresh); err != nil {
		return nil, err
	}
	return j.checkpointsIn(ctx, segments)
}

// publishCheckpoint makes a block of a checkpoint's delta and merges it. It links to the
// heads that were folded and to nothing else, whatever the heads are now: all that it
// links to is taken for covered. If another replica has made the same block, that is it.
func (c *commit) publishCheckpoint(ctx context.Context, d *pbDelta, heads []blockID) (*block, error) {
	for _, id := range heads {
		if m, err := c.dag.mark(ctx, id); err != nil {
			return nil, err
		} else if m.state != complete {
			return nil, fmt.Errorf("crdt: block %s was purged meanwhile: begin anew", id.Cid())
		}
	}
	b, err := c.committer.blocks.build(d, heads)
	if err != nil {
		return nil, err
	}
	if known, err := c.dag.merged(ctx, b.id); err != nil || known {
		return b, err
	}
	if err := c.committer.blocks.admit(ctx, b); err != nil {
		return nil, err
	}
	c.made = append(c.made, b)
	return b, c.merge(ctx, b)
}

// hold makes the cover of a checkpoint count as marks. The pages and the rows of the cover
// must all be here.
func (c *commit) hold(cp *checkpoint, f *folded, covered []blockID) {
	held := *cp
	held.state, held.since = checkpointHeld, time.Now()
	held.segments, held.taken = f.segments, len(f.taken) > 0
	c.checkpoints.set(&held)
	for _, id := range covered {
		c.checkpoints.removeIdle(id)
	}
	c.dag.begunAnew = append(c.dag.begunAnew, cp.tip.DAGName)
}
