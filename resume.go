package crdt

import (
	"context"
	"math/rand/v2"
	"time"
)

// lookLaterLocked has the queue rows read again after a while.
func (w *walker) lookLaterLocked() {
	if w.spill == nil {
		w.spill = time.AfterFunc(min(max(w.maxBackoff, time.Second), maxSpill), w.lookAgain)
	}
}

// lookAgain has the merger call resume: the store may have queue rows that are
// not in jobs.
func (w *walker) lookAgain() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// resume takes up what the store has queued: all of it, or a random part, so
// that blocks which cannot be had do not keep others from being tried.
func (w *walker) resume(ctx context.Context, store *rowStore) error {
	var sample []wanted
	seen := 0
	for e, err := range store.rowsOf(ctx, store.keys.queue, 1, false) {
		if err != nil {
			return err
		}
		_, id, ok := splitID(e.Key)
		if !ok {
			continue
		}
		c := decodeWanted(id, e.Value)
		if seen++; len(sample) < maxJobs/2 {
			sample = append(sample, c)
		} else if i := rand.IntN(seen); i < len(sample) {
			sample[i] = c
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spill = nil
	if seen > len(sample) {
		w.lookLaterLocked()
		w.forgetFailingLocked()
	}
	wk := &walk{}
	for _, c := range sample {
		w.wantLocked(wk, c)
	}
	w.endIfDone(wk)
	w.startLocked()
	return nil
}

// forgetFailingLocked makes room for others that may be had.
func (w *walker) forgetFailingLocked() {
	for w.failing.Len() > 0 {
		w.dropLocked(w.failing.Front().Value.(*job))
	}
}
