package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

// dialTimeout bounds one attempt to connect: a host that is up answers sooner.
const dialTimeout = 15 * time.Second

// addresses are what other nodes need to connect to this one.
func (n *node) addresses() []string {
	addrs, err := peer.AddrInfoToP2pAddrs(host.InfoFromHost(n.host))
	if err != nil {
		return nil // only for a host without an id, and ours has one
	}
	full := make([]string, len(addrs))
	for i, a := range addrs {
		full[i] = a.String()
	}
	return full
}

// connect dials a peer by its full address and keeps the connection up from
// then on, redialling when it breaks.
func (n *node) connect(ctx context.Context, addr string) (peer.ID, error) {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return "", fmt.Errorf("%q is no address like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…: %w", addr, err)
	}
	if err := n.dial(ctx, *info); err != nil {
		return "", err
	}
	n.peering.AddPeer(*info)
	return info.ID, nil
}

func (n *node) dial(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := n.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("cannot connect to %s: %w", info.ID, err)
	}
	return nil
}

// discover finds other nodes on the local network and connects to them. They
// can come and go, so a failure to connect to one is no error of this node.
func (n *node) discover() error {
	service := mdns.NewMdnsService(n.host, "_globaldb._udp", foundPeer(func(info peer.AddrInfo) {
		_ = n.dial(n.ctx, info)
	}))
	if err := service.Start(); err != nil {
		return err
	}
	n.onClose(service.Close)
	return nil
}

// foundPeer makes a function an mdns.Notifee.
type foundPeer func(peer.AddrInfo)

// HandlePeerFound implements mdns.Notifee.
func (f foundPeer) HandlePeerFound(info peer.AddrInfo) { f(info) }

// cutOff closes the connections with the given nodes and refuses new ones,
// whoever dials, until join.
func (n *node) cutOff(others ...*node) error {
	var errs []error
	for _, o := range others {
		errs = append(errs, n.gater.BlockPeer(o.host.ID()), n.host.Network().ClosePeer(o.host.ID()))
	}
	return errors.Join(errs...)
}

// join connects with the given nodes, lifting a cutOff.
func (n *node) join(ctx context.Context, others ...*node) error {
	var errs []error
	for _, o := range others {
		errs = append(errs, n.gater.UnblockPeer(o.host.ID()), n.dial(ctx, *host.InfoFromHost(o.host)))
	}
	return errors.Join(errs...)
}
