package crdt

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Of whatever there is much to do, the rest waits for one piece at most.
func TestChoresTakeTurns(t *testing.T) {
	order := ""
	times := func(name string, n int) *chore {
		return &chore{do: func(context.Context) (bool, error) {
			if n == 0 {
				return false, nil
			}
			n--
			order += name
			return true, nil
		}}
	}
	c := newFoldWorld(t, 1).checkpointer
	c.chores = []*chore{times("check ", 4), times("drop ", 2)}
	c.workOff()
	if order != "check drop check drop check check " {
		t.Error(order)
	}
}

// A chore that fails is not tried again at once, though there may be something new to do,
// and keeps no other from being done.
func TestFailedChorePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed, done := 0, 0
		c := newFoldWorld(t, 1).checkpointer
		silent(c.opts)
		c.log = c.opts.Logger
		c.chores = []*chore{
			{do: func(context.Context) (bool, error) { failed++; return true, errors.New("no") }},
			{do: func(context.Context) (bool, error) { done++; return false, nil }},
		}
		for range 5 {
			c.wake()
			synctest.Wait()
		}
		if failed != 1 || done != 5 {
			t.Errorf("tried %d times, and the other %d times", failed, done)
		}
		time.Sleep(retryPause)
		synctest.Wait()
		if failed != 2 {
			t.Errorf("tried %d times after a pause", failed)
		}
		c.stopped = true
		time.Sleep(retryPause)
	})
}
