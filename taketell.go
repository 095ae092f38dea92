package crdt

import (
	"context"
	"iter"
)

// How many rows one commit looks at that a cover has made superfluous, and how many
// blocks of it whose parents are to be told.
const (
	maxToldBlocks  = 256
	maxUselessRows = 512
)

// tellCover brings what was there before a cover came to count as marks in line with it,
// in commits of bounded size. If it is cut off it begins anew, and finds what is left.
func (t *taker) tellCover(ctx context.Context, cp *checkpoint) error {
	keys := t.store.keys
	if err := t.removeInVain(ctx, cp); err != nil {
		return err
	}
	for _, prefix := range []string{keys.waiting + "/w", keys.queue} {
		if err := t.eachCovered(ctx, cp, prefix, maxToldBlocks, tellParents); err != nil {
			return err
		}
	}
	if err := t.eachCovered(ctx, cp, keys.tombstones, maxUselessRows, removeTombstones); err != nil {
		return err
	}
	if err := t.eachCovered(ctx, cp, keys.blocks, maxUselessRows, completePending); err != nil {
		return err
	}
	return t.update(ctx, cp.id, func(now *commit, cp *checkpoint) error {
		cp.state = checkpointHeld
		now.checkpoints.set(cp)
		return nil
	})
}

// A rowOfCover is a row whose name ends with a block of a cover.
type rowOfCover struct {
	path  string // between a prefix and the block
	id    blockID
	value []byte
}

// eachCovered makes commits that do something about the covered rows under a prefix.
func (t *taker) eachCovered(ctx context.Context, cp *checkpoint, prefix string, most int, do func(context.Context, *commit, []rowOfCover) error) error {
	var some []rowOfCover
	settle := func() error {
		return t.update(ctx, cp.id, func(now *commit, _ *checkpoint) error { return do(ctx, now, some) })
	}
	for r, err := range t.coveredRows(ctx, cp, prefix) {
		if err != nil {
			return err
		}
		if some = append(some, r); len(some) < t.committer.most(most) {
			continue
		}
		if err := settle(); err != nil {
			return err
		}
		some = some[:0]
	}
	if len(some) == 0 {
		return nil
	}
	return settle()
}

func (t *taker) coveredRows(ctx context.Context, cp *checkpoint, prefix string) iter.Seq2[rowOfCover, error] {
	return func(yield func(rowOfCover, error) bool) {
		for e, err := range t.store.rowsUnder(ctx, prefix, false, 0) {
			path, id, covered := splitID(e.Key)
			if err == nil && covered {
				covered, err = t.store.inSegments(ctx, cp.segments, id)
			}
			if err != nil {
				yield(rowOfCover{}, err)
				return
			}
			if covered && !yield(rowOfCover{path, id, e.Value}, nil) {
				return
			}
		}
	}
}

// tellParents tells those that wait for covered blocks. What finds no room is left to the
// merger, with a queue row; no other of these rows stays.
func tellParents(ctx context.Context, now *commit, rows []rowOfCover) error {
	for _, r := range rows {
		if _, err := now.dag.stored(ctx, r.id); err != nil {
			return err
		}
		now.dag.setQueued(r.id, nil)
		now.dag.news = append(now.dag.news, r.id)
	}
	return now.dag.spread(ctx)
}

// removeTombstones removes those of versions that cannot come any more.
func removeTombstones(_ context.Context, now *commit, rows []rowOfCover) error {
	for _, r := range rows {
		now.set.setTombstone(versionName{r.path, r.id}, false)
	}
	return nil
}

// completePending lets the marks of merged blocks say what the cover says. They stay, as a
// cover does not have whole ids, by which the blocks could be removed some time.
func completePending(_ context.Context, now *commit, rows []rowOfCover) error {
	for _, r := range rows {
		if r.path != "" {
			continue // not a mark
		}
		m, err := decodeMark(r.value)
		if err != nil {
			return err
		}
		if m.state != pending {
			continue
		}
		if len(m.links) == 0 { // these are many, in a row of their own
			now.dag.setLinks(r.id, nil)
		}
		now.dag.setMark(r.id, &mark{state: complete})
	}
	return nil
}
