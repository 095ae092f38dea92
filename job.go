package crdt

import (
	"container/list"
	"context"
	"time"
)

// A walk is what one announcement leads to.
type walk struct {
	session  *session // nil until something has to be fetched
	fruitful bool     // some block came
	jobs     int      // not merged yet
	waiting  jobHeap
	element  *list.Element // in the rotation
	lines    map[*lane]*line
}

// A job is a missing block.
type job struct {
	id       blockID
	walk     *walk
	height   uint64 // it is at most this high
	v0       bool   // it is linked by a CID of version 0
	either   bool   // by both
	queued   bool   // it has a queue row
	attempts int
	again    bool                   // wanted again while it was with the merger
	values   map[versionName]*loser // that merging it needs
	valued   bool                   // it has values, or has them read

	state   jobState
	element *list.Element // in announced
	slow    *list.Element // in slow
	slowed  time.Time     // when it got there
	failing *list.Element // in failing
	crowded *list.Element // in the line of its walk and lane
	room    room          // claimed, or waited for
	cancel  context.CancelFunc
	retry   *time.Timer
}

// linked notes how the block is linked. When both ways have been seen, one of
// which may be a lie, they are tried in turn.
func (j *job) linked(v0 bool) { j.either = j.either || j.v0 != v0 }

// link is how to ask for the block at this attempt.
func (j *job) link() link { return link{j.id, j.v0 != (j.either && j.attempts%2 == 1)} }

type jobState int

const (
	waiting jobState = iota // in its walk's heap
	running                 // being fetched
	parked                  // failed; its timer will put it back
	crowded                 // fetched; to be fetched again when its lane has room
	arrived                 // handed to the merger
	dropped                 // given up
)

// jobHeap has the highest block on top.
type jobHeap []*job

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, j int) bool { return h[i].height > h[j].height }
func (h jobHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)        { *h = append(*h, x.(*job)) }
func (h *jobHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
