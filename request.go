package crdt

import (
	"container/list"
	"time"
)

// A request asks for a block. It may outlive the block's being requested: when that
// is removed, or when it has come and the merger is behind.
type request struct {
	block   *missingBlock
	group   *fetchGroup   // of the block when the request was made
	pool    *pool         // whose slot it holds; nil: it is slow
	element *list.Element // in pool.holding or scheduler.slow; nil: it has ended
	since   time.Time     // when it got there
	cancel  func()        // cuts it off; must not block
}

func (s *scheduler) request(now time.Time, p *pool, b *missingBlock) *request {
	s.become(b, requested)
	b.request = &request{block: b, group: b.group, pool: p, since: now}
	b.request.element = p.holding.PushBack(b.request)
	s.held++
	b.group.held++
	return b.request
}

// vacate takes the slot or the slow place from a request.
func (s *scheduler) vacate(r *request) {
	if r.pool == nil {
		s.slow.Remove(r.element)
		r.group.slow--
		return
	}
	r.pool.holding.Remove(r.element)
	s.held--
	r.group.held--
}

// ended frees what a request held. It reports whether the block was given up, as
// it failed once too often.
func (s *scheduler) ended(now time.Time, r *request, failed bool) (givenUp bool) {
	if r.element != nil {
		s.vacate(r)
		r.element = nil
	}
	if !failed || r.block.request != r {
		return false
	}
	s.doubt(r.block)
	return s.fail(now, r.block)
}

// outlive lets the next request start while a slow one goes on. It keeps its slot
// where there are too many of these already, and while its block, which has come,
// waits for the merger.
func (s *scheduler) outlive(now time.Time, r *request) {
	b := r.block
	if b.request == r {
		s.doubt(b)
	}
	if b.request != r || s.slow.Len() >= maxSlow && !s.cutOff(now, r.group) {
		r.since = now
		r.pool.holding.MoveToBack(r.element)
		return
	}
	s.release(&b.room)
	s.vacate(r)
	r.pool, r.since = nil, now
	r.element = s.slow.PushBack(r)
	r.group.slow++
}

// cutOff ends a slow request, to make room for one of a group.
func (s *scheduler) cutOff(now time.Time, g *fetchGroup) bool {
	r := s.mostHopeless(now, g)
	if r == nil {
		return false
	}
	s.vacate(r) // now: others may become slow before it ends
	r.element = nil
	r.cancel()
	return true
}

// mostHopeless returns the oldest slow request of those who have most. If it is g's own
// and not very old, then g's newest goes, or none if something of g has come: those
// before it are more likely to be answered.
func (s *scheduler) mostHopeless(now time.Time, g *fetchGroup) *request {
	var unknown, newest, greatest *request
	n := 0
	for e := s.slow.Front(); e != nil; e = e.Next() {
		r := e.Value.(*request)
		switch of := r.group; {
		case of.pool == &s.unknown:
			if n++; unknown == nil {
				unknown = r
			}
			if of == g {
				newest = r
			}
		case greatest == nil || of.slow > greatest.group.slow:
			greatest = r
		}
	}
	oldest := greatest
	if greatest == nil || n >= greatest.group.slow {
		oldest = unknown
	}
	if oldest.group == g && now.Sub(oldest.since) <= maxSlowAge {
		return newest
	}
	return oldest
}
