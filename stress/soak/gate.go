package main

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/control"
	libnet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// gate is a connection gater that lets no peer through that is cut off.
type gate struct {
	mu  sync.Mutex
	cut map[peer.ID]bool
}

func (g *gate) set(cut map[peer.ID]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = cut
}

func (g *gate) open(id peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.cut[id]
}

func (g *gate) InterceptPeerDial(id peer.ID) bool                        { return g.open(id) }
func (g *gate) InterceptAddrDial(id peer.ID, _ multiaddr.Multiaddr) bool { return g.open(id) }
func (g *gate) InterceptAccept(libnet.ConnMultiaddrs) bool               { return true }

func (g *gate) InterceptSecured(_ libnet.Direction, id peer.ID, _ libnet.ConnMultiaddrs) bool {
	return g.open(id)
}

func (g *gate) InterceptUpgraded(c libnet.Conn) (bool, control.DisconnectReason) {
	return g.open(c.RemotePeer()), 0
}
