package crdt

import (
	"testing"
	"testing/synctest"
	"time"
)

// Queue rows that found no room are looked at soon, however seldom heads are announced.
func TestQueueRowsWithoutRoomAreLookedAtWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalker(ctx, nil, &Options{NumWorkers: 1, RebroadcastInterval: 24 * time.Hour}, newLanes(1))
		w.mu.Lock()
		w.lookLaterLocked()
		w.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(w.again) == 0 {
			t.Error("the rows are not looked at")
		}
		w.stop()
	})
}
