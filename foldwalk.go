package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A foldWalk finds what a snapshot is made from. It goes down from heads, within their
// DAG, as far as the newest snapshots that are held. These are the bases; the blocks
// between are fresh.
//
// Which snapshots are bases is known only in the end. So links into the cover of any that
// is held are put aside at first: mostly a base has them. Those that none has are walked
// in a second round: the heads are older than that snapshot, or beside it. Of what this
// round comes upon, a base that it finds later may cover something yet, also blocks that
// have been dropped. Both are left out in the end.
//
// What has been dropped here is not fetched again: mostly others have dropped it as well,
// and a later checkpoint covers it.
type foldWalk struct {
	store   *rowStore
	blocks  *blockStore
	dagName string
	held    checkpoints // of the DAG
	covers  []segment   // of these
	others  []segment   // of what is held of other DAGs

	traversal traversal
	second    bool              // it is the second round
	limit     int               // how many blocks may be read in it
	aside     map[blockID]bool  // links into covers
	doubtful  []blockID         // blocks that are fresh if no base covers them
	gone      map[blockID]error // blocks that could not be had in it

	// What it finds:
	bases   checkpoints
	under   []segment        // their covers
	fresh   []coverID        // sorted
	out     map[blockID]bool // blocks that are not fresh, but whose versions are among the changes; mostly none
	changes *sorter          // what fresh blocks do to versions
}

// errCannotFold says that a block is in the way of a snapshot.
var errCannotFold = errors.New("crdt: no checkpoint can be made")

func cannotFold(id blockID, why error) error {
	return fmt.Errorf("%w: block %s: %w", errCannotFold, id.Cid(), why)
}

// Why a block is in the way.
var (
	errNotComplete = errors.New("it has not been merged here, with all that is below it: repair the datastore first")
	errIsDropped   = errors.New("it has been dropped, or was never here, as a checkpoint covers it")
	errLongWay     = errors.New("it is one of many in the cover of a checkpoint that is not below the heads")
	errIsSummary   = errors.New("it is a summary, as old peers write them, and does not say what there was")
)

// foldPatience is how long a block is waited for. It should be here.
const foldPatience = 10 * time.Second

func newFoldWalk(store *rowStore, blocks *blockStore, known checkpoints, dagName string, limit int) *foldWalk {
	held := known.held()
	w := &foldWalk{
		store:   store,
		blocks:  blocks,
		dagName: dagName,
		held:    held.of(dagName),
		aside:   make(map[blockID]bool),
		gone:    make(map[blockID]error),
		bases:   make(checkpoints),
		changes: newSorter(),
		limit:   limit,
	}
	others := held.where(func(cp *checkpoint) bool { return cp.tip.DAGName != dagName })
	w.covers, w.others = w.held.segments(), others.segments()
	w.traversal = traversal{enter: w.enter, merged: true, gone: true, patience: foldPatience}
	return w
}

// run walks. Close the sorter at the end.
func (w *foldWalk) run(ctx context.Context, heads []blockID) error {
	if err := w.walk(ctx, heads); err != nil {
		return err
	}
	if len(w.aside) > 0 {
		w.second, w.under = true, w.bases.segments()
		if err := w.walk(ctx, slices.Collect(maps.Keys(w.aside))); err != nil {
			return err
		}
	}
	return w.settle(ctx)
}

func (w *foldWalk) walk(ctx context.Context, from []blockID) error {
	return w.blocks.traverse(ctx, from, &w.traversal, func(id blockID, b *block, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return w.visit(ctx, id, b, err)
	})
}

// enter reports whether a block is to be read.
func (w *foldWalk) enter(ctx context.Context, id blockID) (bool, error) {
	covers := w.covers
	if w.second {
		covers = w.under
	}
	if in, err := w.store.inSegments(ctx, covers, id); in || err != nil {
		if !w.second {
			w.aside[id] = true
		}
		return false, err
	}
	if base := w.held[id]; base != nil {
		if w.bases[id] == nil {
			w.bases[id] = base
			w.doubtful = append(w.doubtful, id) // its own cover has it not
		}
		return false, nil
	}
	if other, err := w.store.inSegments(ctx, w.others, id); other || err != nil {
		return false, err
	}
	dropped, err := w.store.isGone(ctx, id)
	if !dropped || err != nil {
		return err == nil, err
	}
	return false, w.lack(id, errIsDropped)
}

// lack is for a block that cannot be had. In the second round a base may have it.
func (w *foldWalk) lack(id blockID, why error) error {
	if !w.second {
		return cannotFold(id, why)
	}
	w.gone[id] = why
	return nil
}

func (w *foldWalk) visit(ctx context.Context, id blockID, b *block, err error) error {
	switch {
	case err != nil:
		return w.lack(id, err)
	case b.delta.dagName != w.dagName:
		return errSkipBelow
	case b.delta.summary:
		return cannotFold(id, errIsSummary)
	}
	m, err := w.store.mark(ctx, id)
	if err != nil {
		return err
	}
	if m.state != complete {
		return cannotFold(id, errNotComplete)
	}
	if w.second {
		if w.doubtful = append(w.doubtful, id); len(w.doubtful) > w.limit {
			return cannotFold(id, errLongWay)
		}
	} else {
		w.fresh = append(w.fresh, id.inCover())
	}
	return w.addChanges(b)
}

// addChanges notes what a block does to versions. A tombstone whose id names no block
// does nothing.
func (w *foldWalk) addChanges(b *block) error {
	for _, t := range b.delta.tombstones {
		if id, ok := parseDsKey(t.GetId()); ok {
			if err := w.changes.add(&treeChange{entry: entry{key: t.GetKey(), id: id}, removed: true}); err != nil {
				return err
			}
		}
	}
	for _, e := range b.delta.elements {
		v := entry{key: e.GetKey(), id: b.id, priority: b.delta.priority, value: e.GetValue()}
		if err := w.changes.add(&treeChange{entry: v}); err != nil {
			return err
		}
	}
	return nil
}

// settle leaves out what a base covers, now that all are known.
func (w *foldWalk) settle(ctx context.Context) error {
	w.under = w.bases.segments()
	for id, why := range w.gone {
		if in, err := w.store.inSegments(ctx, w.under, id); err != nil {
			return err
		} else if !in {
			return cannotFold(id, why)
		}
	}
	for _, id := range w.doubtful {
		switch in, err := w.store.inSegments(ctx, w.under, id); {
		case err != nil:
			return err
		case in:
			setIn(&w.out, id, true)
		default:
			w.fresh = append(w.fresh, id.inCover())
		}
	}
	slices.SortFunc(w.fresh, coverID.compare)
	w.traversal.stages, w.doubtful = nil, nil
	return nil
}

// covered reports whether the new snapshot covers a block.
func (w *foldWalk) covered(ctx context.Context, id blockID) (bool, error) {
	if _, fresh := slices.BinarySearchFunc(w.fresh, id.inCover(), coverID.compare); fresh {
		return true, nil
	}
	return w.store.inSegments(ctx, w.under, id)
}
