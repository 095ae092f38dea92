package main

import "time"

// A wire is one direction of a peer's link to the world. Parcels go through it one after
// the other.
type wire struct {
	perByte time.Duration
	free    time.Duration // when the last parcel is through, since the start of the network
}

// The bandwidths of links, either way, as time for a byte.
const (
	fastLink = 80 * time.Nanosecond // 100 Mbit/s
	slowLink = 8 * time.Microsecond // 1 Mbit/s
)

// queueBytes is how much waits for a wire at most: some second's worth on a slow link. It stands for
// the queues of pubsub as well, which are 32 messages for each peer.
const queueBytes = 128 << 10

// pass returns when a parcel is through, or not ok if so much waits already that it is thrown away.
func (w *wire) pass(now time.Duration, size int) (done time.Duration, ok bool) {
	begin := max(now, w.free)
	if begin-now > queueBytes*w.perByte {
		return 0, false
	}
	w.free = begin + time.Duration(size)*w.perByte
	return w.free, true
}
