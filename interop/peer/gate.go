package main

import (
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/control"
	libnet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// gate is a connection gater that lets everyone or, while shut, no one through.
type gate struct{ shut atomic.Bool }

func (g *gate) InterceptPeerDial(peer.ID) bool                      { return !g.shut.Load() }
func (g *gate) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return !g.shut.Load() }
func (g *gate) InterceptAccept(libnet.ConnMultiaddrs) bool          { return !g.shut.Load() }

func (g *gate) InterceptSecured(libnet.Direction, peer.ID, libnet.ConnMultiaddrs) bool {
	return !g.shut.Load()
}

func (g *gate) InterceptUpgraded(libnet.Conn) (bool, control.DisconnectReason) {
	return !g.shut.Load(), 0
}
