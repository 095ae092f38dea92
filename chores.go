package crdt

import (
	"context"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// Chores are done by a goroutine that is there only while there is something to do.
type chores struct {
	ctx context.Context // ends when the datastore is closed
	log logging.StandardLogger
	all []*chore // owned by the goroutine

	mu         sync.Mutex
	rung       bool        // there may be something to do
	running    bool        // the goroutine is there
	stopped    bool        // and will not be there again
	next       time.Time   // when it looks again, by itself; zero: nobody has asked since it looked
	timer      *time.Timer // rings then; nil: it has not been needed
	background sync.WaitGroup
}

// A chore is one kind of what the goroutine does. do does some of it, and reports whether
// there may be more. If it is not time yet, it asks isTime.
type chore struct {
	do     func(context.Context) (did bool, err error)
	paused time.Time // until when, as it has failed
}

// wake has the goroutine look for something to do. It does not block.
func (c *chores) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rung = true
	if !c.running && !c.stopped {
		c.running = true
		c.background.Go(c.run)
	}
}

// isTime reports whether a time has come. If it has not, the goroutine looks again when it
// has.
func (c *chores) isTime(at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.next.IsZero() && !at.Before(c.next):
		return false
	case c.timer == nil:
		c.timer = time.AfterFunc(wait, c.wake)
	default:
		c.timer.Reset(wait)
	}
	c.next = at
	return false
}

// stop waits for the goroutine to end. Its context must have ended.
func (c *chores) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.background.Wait()
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *chores) run() {
	for c.takeRing() {
		c.workOff()
	}
}

// takeRing reports whether there may be something to do. Otherwise the goroutine ends.
func (c *chores) takeRing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running, c.rung = c.rung && !c.stopped, false
	if c.running {
		c.next = time.Time{}
	}
	return c.running
}

// workOff does what there is to do, some of each kind in turn: whatever comes of one, the
// others wait for one piece of it at most.
func (c *chores) workOff() {
	for did := true; did; {
		did = false
		for _, chore := range c.all {
			did = c.doSome(chore) || did
			if c.ctx.Err() != nil {
				return
			}
		}
	}
}

// doSome does some of a chore. What fails is tried again after a while.
func (c *chores) doSome(chore *chore) (did bool) {
	if !c.isTime(chore.paused) {
		return false
	}
	did, err := chore.do(c.ctx)
	if err == nil || c.ctx.Err() != nil {
		return did
	}
	c.log.Warnf("checkpoints: %s", err)
	chore.paused = time.Now().Add(retryPause)
	return c.isTime(chore.paused)
}
