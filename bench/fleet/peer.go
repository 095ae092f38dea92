package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A peer is a place in the network, with a replica on it.
type peer struct {
	id       int
	region   region
	slow     bool // behind a slow link
	up, down wire
	last     map[*peer]time.Duration // when the last parcel arrives that was sent there

	mesh   []*peer
	seen   bitset    // posts that have been here
	recent [][]*post // what came since the last heartbeats, the newest last

	radio *radio
	dag   *dag
}

// slowEvery is how many peers there are for one behind a slow link.
const slowEvery = 10

func newPeer(net *network, id int) *peer {
	p := &peer{
		id:     id,
		region: region(id % len(latencies)),
		slow:   id%slowEvery == slowEvery/2,
		up:     wire{perByte: fastLink},
		down:   wire{perByte: fastLink},
		last:   make(map[*peer]time.Duration),
		recent: make([][]*post, 1),
	}
	if p.slow {
		p.up.perByte, p.down.perByte = slowLink, slowLink
	}
	p.radio, p.dag = newRadio(net, p), newDAG(net, p)
	return p
}

// The degree of the mesh, as gossipsub has it: who has fewer neighbours than meshLow takes some more,
// up to meshDegree, and nobody has more than meshHigh.
const (
	meshDegree = 6
	meshLow    = 5
	meshHigh   = 12
)

// knit makes the mesh. It does not change from then on.
func knit(peers []*peer, rng *rand.Rand) {
	for _, p := range peers {
		for _, i := range rng.Perm(len(peers)) {
			if other := peers[i]; len(p.mesh) < meshDegree && p.mayKnow(other) {
				p.mesh, other.mesh = append(p.mesh, other), append(other.mesh, p)
			}
		}
	}
}

func (p *peer) mayKnow(other *peer) bool {
	return other != p && len(other.mesh) < meshHigh && !slices.Contains(p.mesh, other)
}

// strangers returns up to k peers that are not in the mesh, at random.
func (p *peer) strangersLocked(net *network, k int) (found []*peer) {
	for range 3 * k { // enough, unless the network is small
		other := net.peers[net.rng.IntN(len(net.peers))]
		if len(found) < k && other != p && !slices.Contains(p.mesh, other) && !slices.Contains(found, other) {
			found = append(found, other)
		}
	}
	return found
}

// A bitset is a set of small numbers.
type bitset []uint64

func (s bitset) has(i int) bool { return i/64 < len(s) && s[i/64]>>(i%64)&1 == 1 }

// add returns whether i was new.
func (s *bitset) add(i int) bool {
	for len(*s) <= i/64 {
		*s = append(*s, 0)
	}
	had := s.has(i)
	(*s)[i/64] |= 1 << (i % 64)
	return !had
}
