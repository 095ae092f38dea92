package crdt

import (
	"context"
	"math/rand/v2"
	"time"
)

// resume takes up what the store has queued: all of it, or a random part, so
// that blocks that nobody has do not keep others from being tried.
func (f *fetcher) resume(ctx context.Context, committer *committer) error {
	var sample []wanted
	seen := 0
	for r, err := range committer.store.blockRows(ctx, committer.store.keys.queue, false) {
		if err != nil {
			return err
		}
		w := decodeWanted(r.id, r.value)
		if seen++; len(sample) < maxMissing/2 {
			sample = append(sample, w)
		} else if i := rand.IntN(seen); i < len(sample) {
			sample[i] = w
		}
	}
	missing, err := committer.reclaim(ctx, sample)
	if err != nil {
		return err
	}
	f.tell(func(s *scheduler, now time.Time) { s.restore(now, missing, seen == len(sample)) })
	ids := make([]blockID, len(missing))
	for i, w := range missing {
		ids[i] = w.id
	}
	return f.passOver(ctx, committer.store, committer.frontier.checkpoints(), ids)
}
