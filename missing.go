package crdt

import (
	"container/list"
	"time"
)

// A missingBlock is one that is to be fetched, or that has come and is with the
// merger.
//
// It is in one state at a time, and in the list of that state. scheduler.become
// alone takes it from one to the other:
//
//	from       to         when
//	(none)     waiting    it has been announced, or a merged block links to it
//	(none)     arrived    it came with its announcement, and there is room for it
//	waiting    requested  its turn has come
//	requested  arrived    it came, and there is room for it
//	requested  crowded    it came, and there is none: it is not kept
//	requested  parked     the request failed, or was cut off
//	crowded    waiting    room has become free, and is held for it: it is urgent
//	arrived    waiting    the values that merging it needs have been read: likewise
//	arrived    parked     it could not be merged
//	parked     waiting    the pause is over, or a peer has come
//	any        removed    it has been merged, given up, purged, or displaced
type missingBlock struct {
	id       blockID
	group    *fetchGroup
	height   uint64                 // it is at most this high
	v0       bool                   // it is linked by a CID of version 0
	either   bool                   // by both
	queued   bool                   // it has a queue row
	attempts int                    // that failed
	doubted  bool                   // it has been asked for in vain, and has not come since
	values   map[versionName]*loser // that merging it needs
	valued   bool                   // it has values, or has them read

	state     blockState
	place     *place[*fetchGroup, *missingBlock] // where it waits or, if it is crowded, in the queue for room
	request   *request                           // of one that is requested
	retryAt   time.Time                          // of one that is parked
	at        int                                // likewise: in scheduler.parked
	needs     reservation                        // of one that is crowded
	room      reservation                        // of one that was
	announced *list.Element                      // in scheduler.announced
}

type blockState byte

const (
	waiting   blockState = iota // in a line of its group
	requested                   // by a request with a slot, or a slow one
	parked                      // in scheduler.parked, until retryAt
	crowded                     // in the line for room of its group
	arrived                     // handed to the merger
	removed                     // in none
)

// linked notes how the block is linked. When both ways have been seen, one of
// which may be a lie, they are tried in turn.
func (b *missingBlock) linked(v0 bool) { b.either = b.either || b.v0 != v0 }

// link is how to ask for the block at this attempt.
func (b *missingBlock) link() link { return link{b.id, b.v0 != (b.either && b.attempts%2 == 1)} }

// before reports whether a block is asked for before another of its group: news before
// history, but first what has not been tried.
func (b *missingBlock) before(o *missingBlock) bool {
	if b.attempts != o.attempts {
		return b.attempts < o.attempts
	}
	return b.height > o.height
}

// urgent reports whether the block keeps room or values from others as long as it
// waits.
func (b *missingBlock) urgent() bool { return b.room.class != nil || b.values != nil }

// A fetchGroup is the blocks that one announcement leads to, or one block that came
// among lies. They share a session and a turn.
type fetchGroup struct {
	heads   int // of the announcement
	blocks  int // not merged yet
	came    int // as answers to requests
	doubted int // that were asked for in vain
	held    int // slots that its requests hold
	slow    int // its requests without one
	pool    *pool
	session *session // the fetcher's; nil until it is of use
}

// hopeful reports whether a request for one more block is likely to be answered.
func (g *fetchGroup) hopeful() bool { return g.came > 2*g.doubted }

// provenAt is how many blocks must have come before a hopeful group is proven.
const provenAt = 8

// endIfDone ends the session of a group that has nothing left to ask for.
func (g *fetchGroup) endIfDone() {
	if g.blocks == 0 && g.session != nil {
		g.session.end()
		g.session = nil
	}
}

// A parkedHeap has the block on top that is to be tried next.
type parkedHeap []*missingBlock

func (h parkedHeap) Len() int           { return len(h) }
func (h parkedHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h parkedHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *parkedHeap) Push(x any) {
	b := x.(*missingBlock)
	b.at = len(*h)
	*h = append(*h, b)
}
func (h *parkedHeap) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return b
}
