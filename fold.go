package crdt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	cid "github.com/ipfs/go-cid"
)

// A snapshot is the joint effect of all blocks at and below some heads, within their DAG.
// The fold makes it of the newest snapshots that are held, the bases, and of the blocks
// above these (foldwalk.go). It is a pure function of the blocks, whatever the bases are:
//
//   - The cover is the bases' covers and the fresh blocks.
//   - A tombstone in any of them removes its version. A version of a base stays only if
//     every base that covers its block has it: another one may say that it is dead.
//   - An open tombstone, which may have come long before its block, stays as long as the
//     block is not in the cover.
//
// A fold takes no turn. It needs the ids of the fresh blocks in memory, and two sorters.

// A folded snapshot.
type folded struct {
	snapshot snapshotName
	segments []segment // of its cover
	taken    []cid.Cid // the bases that were taken, or folded on one that was
}

// fold makes the snapshot of some heads, and gives its pages to a sink.
func (j *checkpointJobs) fold(ctx context.Context, dagName string, heads []blockID, to pageSink) (*folded, error) {
	return j.foldWithin(ctx, dagName, heads, to, math.MaxInt)
}

// foldWithin is fold, but fails rather than read more blocks than a limit in the second round.
func (j *checkpointJobs) foldWithin(ctx context.Context, dagName string, heads []blockID, to pageSink, limit int) (f *folded, err error) {
	err = j.walk(ctx, dagName, heads, limit, func(ctx context.Context, w *foldWalk) error {
		f, err = w.fold(ctx, to)
		return err
	})
	return f, err
}

// foldVersions makes the versions tree of some heads alone.
func (j *checkpointJobs) foldVersions(ctx context.Context, dagName string, heads []blockID, to pageSink) (root treeRoot, err error) {
	err = j.walk(ctx, dagName, heads, math.MaxInt, func(ctx context.Context, w *foldWalk) error {
		root, err = w.foldVersions(ctx, to)
		return err
	})
	return root, err
}

// walk walks down from some heads, and has what it finds folded. Where pages of the bases
// are lost, here and for a while at everybody else's, it begins again without any: the
// blocks may all be here.
func (j *checkpointJobs) walk(ctx context.Context, dagName string, heads []blockID, limit int, fold func(context.Context, *foldWalk) error) error {
	known := j.committer.frontier.checkpoints()
	coming, end := j.blocks.whilePagesCome(ctx, nil)
	err := j.walkTo(coming, known, dagName, heads, limit, fold)
	end()
	lost := errors.Is(err, errNoPage) || context.Cause(coming) == errNoneCome
	if err == nil || !lost || ctx.Err() != nil {
		return err
	}
	j.log.Warnf("reading all blocks of DAG %q for a checkpoint, as the last one is not all here: %s", dagName, err)
	known = known.where(func(cp *checkpoint) bool { return cp.tip.DAGName != dagName })
	if again := j.walkTo(ctx, known, dagName, heads, limit, fold); again != nil {
		return fmt.Errorf("%w; %w", again, err)
	}
	return nil
}

func (j *checkpointJobs) walkTo(ctx context.Context, known checkpoints, dagName string, heads []blockID, limit int, fold func(context.Context, *foldWalk) error) error {
	w := newFoldWalk(j.store, j.blocks, known, dagName, limit)
	defer w.changes.close()
	if err := w.run(ctx, heads); err != nil {
		return err
	}
	return fold(ctx, w)
}

// fold makes the snapshot of what the walk has found.
func (w *foldWalk) fold(ctx context.Context, to pageSink) (*folded, error) {
	versions, err := w.foldVersions(ctx, to)
	if err != nil {
		return nil, err
	}
	segments, err := w.blocks.extendCover(ctx, to, w.bases.covers(), uint64(len(w.fresh)), w.eachFresh())
	if err != nil {
		return nil, err
	}
	cover, err := w.blocks.writeCover(ctx, to, segments)
	return &folded{
		snapshot: snapshotName{versions.id, cover, versions.entries, versions.bytes, coverIDs(segments)},
		segments: segments,
		taken:    w.bases.taken(),
	}, err
}

// foldVersions makes the versions tree of what the walk has found.
func (w *foldWalk) foldVersions(ctx context.Context, to pageSink) (treeRoot, error) {
	open, bases := newSorter(), []foldBase(nil)
	defer open.close()
	for _, cp := range w.bases {
		if err := w.closeTombstones(ctx, cp, open); err != nil {
			return treeRoot{}, err
		}
		covers := func(ctx context.Context, id blockID) (bool, error) { return w.store.inSegments(ctx, cp.segments, id) }
		bases = append(bases, foldBase{cp.snapshot.tree(), covers})
	}
	tree := newTreeBuilder(to)
	if err := tree.merge(ctx, w.blocks, bases, w.versionChanges(ctx, open)); err != nil {
		return treeRoot{}, err
	}
	for t, err := range open.all() {
		if err == nil {
			err = tree.add(ctx, &t.entry)
		}
		if err != nil {
			return treeRoot{}, err
		}
	}
	return tree.finish(ctx)
}

// closeTombstones goes through the open tombstones of a base. Those whose block is covered
// now are changes; the others stay open.
func (w *foldWalk) closeTombstones(ctx context.Context, base *checkpoint, open *sorter) error {
	for t, err := range w.blocks.openTombstones(ctx, base.snapshot.tree()) {
		if err != nil {
			return err
		}
		c := &treeChange{entry: entry{key: t.key, id: t.id}, removed: true}
		closed, err := w.counts(ctx, c, open)
		if err == nil && closed {
			err = w.changes.add(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// versionChanges yields the changes of versions that may be in the new tree.
func (w *foldWalk) versionChanges(ctx context.Context, open *sorter) iter.Seq2[*treeChange, error] {
	return func(yield func(*treeChange, error) bool) {
		for c, err := range w.changes.all() {
			counts := false
			if err == nil {
				counts, err = w.counts(ctx, c, open)
			}
			if (counts || err != nil) && !yield(c, err) {
				return
			}
		}
	}
}

// counts reports whether a change is about a block that is covered. If it is not, the
// tombstone is open.
func (w *foldWalk) counts(ctx context.Context, c *treeChange, open *sorter) (bool, error) {
	if !c.removed {
		return !w.out[c.id], nil
	}
	covered, err := w.covered(ctx, c.id)
	if err != nil || covered {
		return covered, err
	}
	return false, open.add(&treeChange{entry: entry{key: c.key, id: c.id, tombstone: true}})
}

func (w *foldWalk) eachFresh() iter.Seq2[coverID, error] {
	return func(yield func(coverID, error) bool) {
		for id := range slices.Values(w.fresh) {
			if !yield(id, nil) {
				return
			}
		}
	}
}

// taken returns those that were taken, or folded on one that was.
func (all checkpoints) taken() (names []cid.Cid) {
	for id, cp := range all {
		if cp.taken {
			names = append(names, id.Cid())
		}
	}
	return names
}

func (all checkpoints) covers() (covers [][]segment) {
	for _, cp := range all {
		covers = append(covers, cp.segments)
	}
	return covers
}

// noPages is a sink that keeps nothing.
type noPages struct{}

func (noPages) addPages(context.Context, []page) error { return nil }
