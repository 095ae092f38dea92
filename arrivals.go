package crdt

import (
	"container/list"

	"google.golang.org/protobuf/encoding/protowire"
)

// An arrival is a block for the merger.
type arrival struct {
	job    *job
	block  *block
	err    error // the block is to be refused
	inline bool  // it came with its announcement
	room   room
}

// size is what a block takes, with the values that it has waited for.
func (a *arrival) size() int64 { return a.room.size + int64(sizeOf(a.job.values)) }

// A lane is a queue of decoded blocks for the merger. It bounds the memory that
// they take: whoever brings a block claims room before decoding it, and the
// merger frees the room.
type lane struct {
	queue chan *arrival
	size  int64

	// Guarded by walker.mu:
	used    int64
	waiting list.List // of *line: walks with blocks that found no room, next first
}

// A line is the blocks of one walk that were fetched and found no room.
type line struct {
	jobs list.List     // of *job, oldest first
	turn *list.Element // in lane.waiting
}

// joinLocked makes a job wait for room. The walks take turns.
func (l *lane) joinLocked(j *job) {
	q := j.walk.lines[l]
	if q == nil {
		q = &line{}
		if j.walk.lines == nil {
			j.walk.lines = make(map[*lane]*line)
		}
		j.walk.lines[l] = q
	}
	if q.jobs.Len() == 0 {
		q.turn = l.waiting.PushBack(q)
	}
	j.crowded = q.jobs.PushBack(j)
}

func (l *lane) leaveLocked(j *job) {
	q := j.walk.lines[l]
	q.jobs.Remove(j.crowded)
	j.crowded = nil
	if q.jobs.Len() == 0 {
		l.waiting.Remove(q.turn)
	} else {
		l.waiting.MoveToBack(q.turn)
	}
}

// nextLocked returns the job whose turn it is, or nil.
func (l *lane) nextLocked() *job {
	if e := l.waiting.Front(); e != nil {
		return e.Value.(*line).jobs.Front().Value.(*job)
	}
	return nil
}

// Large blocks have a lane of their own, so that the small ones, which most
// updates are, do not wait behind them, neither for room nor for the merger.
type lanes struct{ small, large *lane }

const (
	smallBlock = 16 << 10 // the largest that is small, in bytes

	smallRoom = 16 << 20 // bytes of memory, as footprint counts them
	largeRoom = 96 << 20
)

func newLanes(length int) *lanes {
	return &lanes{
		small: &lane{queue: make(chan *arrival, length), size: smallRoom},
		large: &lane{queue: make(chan *arrival, length), size: largeRoom},
	}
}

func (l *lanes) empty() bool { return len(l.small.queue)+len(l.large.queue) == 0 }

// room is what one block takes in its lane. The zero room is none.
type room struct {
	lane *lane
	size int64
}

// roomFor says what a block needs: all of its lane at the most.
func (l *lanes) roomFor(raw []byte) room {
	lane := l.small
	if len(raw) > smallBlock {
		lane = l.large
	}
	return room{lane, min(footprint(raw), lane.size)}
}

// claimLocked takes the room if there is as much, and nobody waits for it.
func (r room) claimLocked() bool {
	ok := r.lane.waiting.Len() == 0 && r.fitsLocked()
	if ok {
		r.lane.used += r.size
	}
	return ok
}

func (r room) fitsLocked() bool { return r.lane.used+r.size <= r.lane.size }

// claim claims room for a block. If there is none, the block, which is here
// now, will be fetched again when there is: it is not kept.
func (w *walker) claim(j *job, r room) (_ room, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	claimed := j.room
	j.room = room{}
	switch {
	case j.state != running: // dropped meanwhile
		return room{}, false
	case claimed.lane != nil:
		return claimed, true
	case r.claimLocked():
		return r, true
	}
	j.state, j.room = crowded, r
	r.lane.joinLocked(j)
	return room{}, false
}

// tryClaim claims room for a block that came inline.
func (w *walker) tryClaim(raw []byte) (room, bool) {
	r := w.lanes.roomFor(raw) // it reads all of raw: not under the lock
	w.mu.Lock()
	defer w.mu.Unlock()
	return r, r.claimLocked()
}

// free gives room back.
func (w *walker) free(r room) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.freeLocked(r)
	w.startLocked()
}

// freeLocked gives room back, and to the blocks whose turn it is.
func (w *walker) freeLocked(r room) {
	if r.lane == nil {
		return
	}
	r.lane.used -= r.size
	for j := r.lane.nextLocked(); j != nil && j.room.fitsLocked(); j = r.lane.nextLocked() {
		r.lane.used += j.room.size
		r.lane.leaveLocked(j)
		w.urgeLocked(j)
	}
}

// vacateLocked gives back what a job has claimed and not used yet.
func (w *walker) vacateLocked(j *job) {
	w.freeLocked(j.room)
	j.room = room{}
}

// Memory that a decoded block takes: some copies of its bytes, and structs for
// its links and elements. A hostile block has as many of these as fit.
const (
	bytesPerBlock  = 1 << 10
	copiesInMemory = 4
	bytesPerField  = 272
)

// footprint is about how much memory a block will take when it is decoded.
func footprint(raw []byte) int64 {
	fields := countFields(raw)
	// What cannot be parsed is not decoded either.
	_ = eachField(raw, dataField, func(delta []byte) error {
		fields += countFields(delta)
		return nil
	})
	return int64(bytesPerBlock + copiesInMemory*len(raw) + bytesPerField*fields)
}

// countFields returns how many fields a protobuf message has, up to the first
// malformed one.
func countFields(msg []byte) (n int) {
	for len(msg) > 0 {
		_, _, size := protowire.ConsumeField(msg)
		if size < 0 {
			break
		}
		msg = msg[size:]
		n++
	}
	return n
}
