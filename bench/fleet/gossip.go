package main

import "time"

// Gossipsub with its default parameters, without scores, and with a mesh that stays as it is. Peers do
// not say IDONTWANT, which is for messages of more than 1 KiB.
const (
	heartbeat     = time.Second
	lazyDegree    = 6 // how many peers get an IHAVE at a heartbeat
	gossipHistory = 3 // of how many heartbeats an IHAVE names the posts
)

// What messages take beside what is in them, in bytes, and roughly.
const (
	frameBytes = 60  // TCP/IP, encryption, multiplexing
	postFrame  = 140 // author, number, topic and signature
	idBytes    = 48  // that of a post: author and number
)

// A post is a message that all are to get.
type post struct {
	id   int
	data []byte
}

func (m *post) size() int { return frameBytes + postFrame + len(m.data) }

func (n *network) publish(by *peer, data []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := &post{id: n.posts, data: data}
	n.posts++
	n.traffic.published++
	by.noteLocked(m)
	n.forwardLocked(by, m, nil)
}

// noteLocked returns whether the post is new to the peer.
func (p *peer) noteLocked(m *post) bool {
	if !p.seen.add(m.id) {
		return false
	}
	now := len(p.recent) - 1
	p.recent[now] = append(p.recent[now], m)
	return true
}

// forwardLocked sends a post to the mesh, but not back.
func (n *network) forwardLocked(by *peer, m *post, cameFrom *peer) {
	for _, other := range by.mesh {
		if other != cameFrom {
			n.sendLocked(by, other, m.size(), m, &n.traffic.postBytes)
		}
	}
}

func (m *post) arrive(n *network, from, to *peer) {
	if !to.noteLocked(m) {
		n.traffic.repeats++
		return
	}
	n.traffic.copies++
	to.radio.hear(m.data)
	n.forwardLocked(to, m, from)
}

// A beat is a heartbeat, which sends IHAVE to some strangers.
type beat struct{}

func (beat) arrive(n *network, _, p *peer) {
	n.atLocked(n.now()+heartbeat, parcel{to: p, load: beat{}, inside: true})
	var ids have
	for _, window := range p.recent {
		for _, m := range window {
			ids = append(ids, m)
		}
	}
	if len(ids) > 0 {
		for _, other := range p.strangersLocked(n, lazyDegree) {
			n.sendLocked(p, other, frameBytes+idBytes*len(ids), ids, &n.traffic.gossipBytes)
		}
	}
	p.recent = append(p.recent, nil)
	p.recent = p.recent[max(0, len(p.recent)-gossipHistory):]
}

// have is IHAVE: posts that the sender has. Only their ids travel.
type have []*post

func (ids have) arrive(n *network, from, to *peer) {
	var lacking want
	for _, m := range ids {
		if !to.seen.has(m.id) {
			lacking = append(lacking, m)
		}
	}
	if len(lacking) > 0 {
		n.sendLocked(to, from, frameBytes+idBytes*len(lacking), lacking, &n.traffic.gossipBytes)
	}
}

// want is IWANT: posts that the sender lacks.
type want []*post

func (ids want) arrive(n *network, from, to *peer) {
	for _, m := range ids {
		n.sendLocked(to, from, m.size(), m, &n.traffic.postBytes)
	}
}
