package crash

import (
	"fmt"
	"sync"
)

// A readCount counts the blocks that one run of a child asks its DAG service
// for, be they local or not.
type readCount struct {
	seen *blockSet

	mu     sync.Mutex
	paused bool
	fresh  int // not merged yet, and asked for the first time
	again  int // not merged yet, but asked for before
	merged int // merged before
}

// A blockSet has the blocks that all runs of a child have asked for.
type blockSet struct {
	mu  sync.Mutex
	set map[string]bool
}

// add tells whether a block is new.
func (s *blockSet) add(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.set[id]
	s.set[id] = true
	return !was
}

func (c *readCount) add(id string, merged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch isNew := c.seen.add(id); {
	case c.paused:
	case merged:
		c.merged++
	case isNew:
		c.fresh++
	default:
		c.again++
	}
}

func (c *readCount) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
}

func (c *readCount) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh + c.again + c.merged
}

// A readSum sums up the runs of a child, and knows the worst.
type readSum struct {
	seen                       blockSet
	runs, fresh, again, merged int
	mostAgain, mostMerged      int
}

func (s *readSum) begin() *readCount { return &readCount{seen: &s.seen} }

// end adds a run that is over.
func (s *readSum) end(c *readCount) {
	s.runs++
	s.fresh += c.fresh
	s.again += c.again
	s.merged += c.merged
	s.mostAgain = max(s.mostAgain, c.again)
	s.mostMerged = max(s.mostMerged, c.merged)
}

func (s *readSum) String() string {
	return fmt.Sprintf("%d blocks read, %d of them again before they were merged (%d in one run at most), and %d merged ones (%d in one run at most)",
		s.fresh, s.again, s.mostAgain, s.merged, s.mostMerged)
}
