package crdt

import (
	"testing"
	"testing/synctest"
	"time"
)

// Queue rows that found no room are looked at soon, however seldom heads are announced.
func TestQueueRowsWithoutRoomAreLookedAtWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFetcher(ctx, nil, &Options{NumWorkers: 1, RebroadcastInterval: 24 * time.Hour}, newSizeClasses(1))
		f.tell((*scheduler).readLater)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(f.unread) == 0 {
			t.Error("the rows are not looked at")
		}
		f.stop()
	})
}
