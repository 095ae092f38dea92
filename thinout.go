package crdt

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

// Held checkpoints that others cover are kept for a while, but their number must not grow
// with history: every look-up in covers goes through what segments they have, and each
// has pages of its own, on a store whose keys are overwritten at random as many as there
// are. So of those of a DAG there stay
//
//   - those that no other one covers: the next ones are folded on them;
//   - those that only such a one covers: what has been made beside it was folded on them,
//     and to check that without them all blocks below would have to be read;
//   - of the older ones, as long as history is kept, one for each eighth of
//     Options.KeepHistory: they say since when what they cover has been covered. To keep
//     the last ones alone would mean that none is ever held for long enough.

// thinningsIn is how many of the older ones stay in the time that history is kept.
const thinningsIn = 8

// thinOut retires held checkpoints that are not needed any more, in one DAG.
func (k *keeper) thinOut(ctx context.Context) (did bool, err error) {
	held := k.committer.frontier.checkpoints().held()
	if maps.Equal(held, k.thinned) {
		return false, nil
	}
	for dagName := range held.dagNames() {
		old, err := k.coveredTwice(ctx, held.of(dagName))
		if err != nil {
			return false, err
		}
		if old = unneeded(old, k.opts.KeepHistory/thinningsIn); len(old) > 0 {
			return k.doChore(ctx, dagName, func(ctx context.Context) error { return k.retire(ctx, old) })
		}
	}
	k.thinned = held
	return false, nil
}

// coveredTwice returns the checkpoints of a DAG that one covers which another one covers.
func (k *keeper) coveredTwice(ctx context.Context, held checkpoints) (old []*checkpoint, err error) {
	if len(held) < 3 {
		return nil, nil
	}
	depth := make(map[blockID]int) // how many are above each, one covering the next
	newestFirst := slices.SortedFunc(maps.Values(held), func(a, b *checkpoint) int { return cmp.Compare(b.tip.Height, a.tip.Height) })
	for i, cp := range newestFirst {
		for _, above := range newestFirst[:i] {
			if depth[cp.id] > depth[above.id] {
				continue
			}
			in, err := k.store.inSegments(ctx, above.segments, cp.id)
			if err != nil {
				return nil, err
			}
			if in {
				depth[cp.id] = depth[above.id] + 1
			}
		}
		if depth[cp.id] > 1 && cp.state == checkpointHeld {
			old = append(old, cp)
		}
	}
	return old, nil
}

// unneeded returns those of older checkpoints that have come to be held sooner than that after
// another one that stays; all if none is to stay.
func unneeded(old []*checkpoint, apart time.Duration) (some []*checkpoint) {
	slices.SortFunc(old, func(a, b *checkpoint) int { return a.since.Compare(b.since) })
	var stays *checkpoint
	for _, cp := range old {
		if apart > 0 && (stays == nil || cp.since.Sub(stays.since) >= apart) {
			stays = cp
		} else {
			some = append(some, cp)
		}
	}
	return some
}

// retire retires checkpoints that others cover, and sweeps what they alone have.
func (k *keeper) retire(ctx context.Context, old []*checkpoint) error {
	err := k.committer.do(ctx, func(now *commit) error {
		for _, cp := range old {
			now.checkpoints.retire(cp.id)
		}
		return nil
	})
	if err == nil {
		_, err = k.sweep(ctx)
	}
	return err
}

// dagNames returns the names of the DAGs that checkpoints are of.
func (all checkpoints) dagNames() map[string]bool {
	names := make(map[string]bool)
	for _, cp := range all {
		names[cp.tip.DAGName] = true
	}
	return names
}
