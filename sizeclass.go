package crdt

import "google.golang.org/protobuf/encoding/protowire"

// An arrival is a block for the merger.
type arrival struct {
	missing *missingBlock
	block   *block
	err     error // the block is to be refused
	inline  bool  // it came with its announcement
	room    reservation
}

// size is what a block takes, with the values that it has waited for.
func (a *arrival) size() int64 { return a.room.size + int64(sizeOf(a.missing.values)) }

// A sizeClass is a queue of decoded blocks for the merger, with a budget for the
// memory that they take: whoever brings a block reserves room before decoding it,
// and the merger releases it.
type sizeClass struct {
	queue chan *arrival
	budget
}

// A budget is guarded by the fetcher's mutex.
type budget struct {
	size, used int64
	crowd      fairQueue[*fetchGroup, *missingBlock] // blocks that found no room
}

// Large blocks have a class of their own, so that the small ones, which most
// updates are, do not wait behind them, neither for room nor for the merger.
type sizeClasses struct{ small, large *sizeClass }

const (
	smallBlock = 16 << 10 // the largest that is small, in bytes

	smallRoom = 16 << 20 // bytes of memory, as footprint counts them
	largeRoom = 96 << 20
)

func newSizeClasses(length int) *sizeClasses {
	return &sizeClasses{
		small: &sizeClass{queue: make(chan *arrival, length), budget: budget{size: smallRoom}},
		large: &sizeClass{queue: make(chan *arrival, length), budget: budget{size: largeRoom}},
	}
}

func (c *sizeClasses) empty() bool { return len(c.small.queue)+len(c.large.queue) == 0 }

// A reservation is the room that one block takes. The zero reservation is none.
type reservation struct {
	class *sizeClass
	size  int64
}

// need is what a block needs: all of its class at the most.
func (c *sizeClasses) need(raw []byte) reservation {
	class := c.small
	if len(raw) > smallBlock {
		class = c.large
	}
	return reservation{class, min(footprint(raw), class.size)}
}

// tryTake reserves the room if there is as much, and nobody waits for it.
func (r reservation) tryTake() bool {
	ok := r.class.crowd.first(nil) == nil && r.fits()
	if ok {
		r.class.use(r.size)
	}
	return ok
}

func (b *budget) use(size int64) {
	b.used += size
	if invariants {
		mustHold(0 <= b.used && b.used <= b.size, "%d of %d bytes are in use", b.used, b.size)
	}
}

func (r reservation) fits() bool { return r.class.used+r.size <= r.class.size }

// reserve takes what the block of a request needs. If there is no room, the block,
// which is here now, will be asked for again when there is: it is not kept.
func (s *scheduler) reserve(r *request, need reservation) (_ reservation, ok bool) {
	b := r.block
	held := b.room
	switch {
	case b.request != r: // removed meanwhile
		return reservation{}, false
	case held.class != nil:
		b.room = reservation{}
		return held, true
	case need.tryTake():
		return need, true
	}
	s.become(b, crowded)
	b.needs, b.place = need, need.class.crowd.add(b.group, b)
	return reservation{}, false
}

// release gives room back, and to the blocks whose turn it is.
func (s *scheduler) release(r *reservation) {
	class := r.class
	if class == nil {
		return
	}
	class.use(-r.size)
	*r = reservation{}
	for p := class.crowd.first(nil); p != nil && p.item.needs.fits(); p = class.crowd.first(nil) {
		b := p.item
		b.room = b.needs
		class.use(b.room.size)
		s.wait(b)
	}
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
