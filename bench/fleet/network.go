package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

const (
	tick     = time.Millisecond // what is due within one happens at its end, all at once
	horizon  = 1 << 13          // ticks: nothing is due later than that
	lossRate = 0.01
)

// A network carries parcels between peers in fake time. What a parcel does on its arrival
// is done by one goroutine, under the lock.
type network struct {
	start time.Time
	wake  chan struct{} // there is something to do sooner than run sleeps
	pool  pool

	mu      sync.Mutex
	rng     *rand.Rand
	peers   []*peer
	due     [horizon][]parcel // by the tick, modulo horizon
	ticks   int               // how many have been done
	asleep  int               // run sleeps until that tick
	posts   int               // that have been published
	traffic traffic
	busy    time.Duration // processor time of run, which is not that of replicas
}

// A parcel is something on its way.
type parcel struct {
	from, to *peer
	size     int
	load     load
	inside   bool // it has come through the receiver's link
}

// A load is what is in a parcel.
type load interface {
	arrive(n *network, from, to *peer)
}

// traffic is what has been sent.
type traffic struct {
	parcels, bytes  int64
	lost, dropped   int64 // on the way; as too much waited for a link
	published       int64 // posts
	copies, repeats int64 // of posts that arrived: the first at a peer; the others
	postBytes       int64 // of posts on their way
	gossipBytes     int64 // of IHAVE and IWANT
	blockBytes      int64 // of what is asked of DAG services, and answered
	wanted, wants   int64 // blocks that a replica asked for; requests for them
	given, notFound int64 // answers to these
}

func (t traffic) minus(o traffic) traffic {
	return traffic{t.parcels - o.parcels, t.bytes - o.bytes, t.lost - o.lost, t.dropped - o.dropped,
		t.published - o.published, t.copies - o.copies, t.repeats - o.repeats,
		t.postBytes - o.postBytes, t.gossipBytes - o.gossipBytes, t.blockBytes - o.blockBytes,
		t.wanted - o.wanted, t.wants - o.wants, t.given - o.given, t.notFound - o.notFound}
}

func newNetwork(n int, seed uint64) *network {
	net := &network{start: time.Now(), wake: make(chan struct{}, 1), pool: newPool(), rng: rand.New(rand.NewPCG(seed, uint64(n)))}
	for i := range n {
		net.peers = append(net.peers, newPeer(net, i))
	}
	knit(net.peers, net.rng)
	for _, p := range net.peers {
		net.atLocked(net.now()+time.Duration(net.rng.Int64N(int64(heartbeat))), parcel{to: p, load: beat{}, inside: true})
	}
	return net
}

func (n *network) now() time.Duration { return time.Since(n.start) }

// run delivers what is due until ctx ends. It keeps a thread to itself, so that its
// processor time can be told from that of the replicas.
func (n *network) run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun := threadTime()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(n.sleepUntil() - n.now())
		select {
		case <-timer.C:
			n.deliver()
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		n.busy = threadTime() - begun
		n.mu.Unlock()
	}
}

// sleepUntil returns when something is due next.
func (n *network) sleepUntil() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.ticks
	for len(n.due[next%horizon]) == 0 && next < n.ticks+horizon-1 {
		next++
	}
	n.asleep = next
	return time.Duration(next) * tick
}

func (n *network) deliver() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for end := int(n.now() / tick); n.ticks <= end; {
		slot := &n.due[n.ticks%horizon]
		parcels := *slot
		*slot = nil
		n.ticks++
		for _, p := range parcels {
			n.arriveLocked(p)
		}
	}
}

// arriveLocked passes a parcel through the receiver's link, and then hands it over.
func (n *network) arriveLocked(p parcel) {
	if !p.inside {
		p.inside = true
		done, ok := p.to.down.pass(n.now(), p.size)
		if !ok {
			n.traffic.dropped++
			return
		}
		if done-n.now() > tick {
			n.atLocked(done, p)
			return
		}
	}
	p.load.arrive(n, p.from, p.to)
}

// atLocked has a parcel arrive at some time, with the next tick at the earliest.
func (n *network) atLocked(at time.Duration, p parcel) {
	t := min(max(int((at+tick-1)/tick), n.ticks), n.ticks+horizon-1)
	n.due[t%horizon] = append(n.due[t%horizon], p)
	if t < n.asleep {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// sendLocked sends a parcel from one peer to another, and adds its bytes to a counter as well. Those
// between the same two arrive in their order, if they do.
func (n *network) sendLocked(from, to *peer, size int, l load, counter *int64) {
	n.traffic.parcels++
	n.traffic.bytes += int64(size)
	*counter += int64(size)
	through, ok := from.up.pass(n.now(), size)
	switch {
	case !ok:
		n.traffic.dropped++
		return
	case n.rng.Float64() < lossRate:
		n.traffic.lost++
		return
	}
	at := max(through+from.region.latency(to.region, n.rng), from.last[to])
	from.last[to] = at
	n.atLocked(at, parcel{from: from, to: to, size: size, load: l})
}
