package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const topic = "interop"

// network is a libp2p host that knows nobody it wasn't told to connect to.
type network struct {
	host   host.Host
	gate   *gate
	pubsub *pubsub.PubSub
}

func listen(ctx context.Context) (*network, error) {
	g := new(gate)
	h, err := libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ConnectionGater(g),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		return nil, err
	}
	// A new connection is in no mesh until the next heartbeat; flooding reaches it at once.
	ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithFloodPublish(true))
	return &network{host: h, gate: g, pubsub: ps}, err
}

// addr is what another peer needs to connect.
func (n *network) addr() string {
	info := peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()}
	addrs, err := peer.AddrInfoToP2pAddrs(&info)
	if err != nil || len(addrs) == 0 {
		return ""
	}
	return addrs[0].String()
}

// connect dials at once, even if a dial just failed because of a partition, and waits
// until the other peer's subscription is known: announcements before that reach nobody.
func (n *network) connect(ctx context.Context, addr string) error {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return err
	}
	if s, ok := n.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID)
	}
	if err := n.host.Connect(ctx, *info); err != nil {
		return err
	}
	return n.awaitSubscriber(ctx, info.ID)
}

func (n *network) awaitSubscriber(ctx context.Context, id peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !slices.Contains(n.pubsub.ListPeers(topic), id) {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is connected but has not subscribed: %w", id, ctx.Err())
		}
	}
	return nil
}

// isolate cuts the node off from everyone until rejoin.
func (n *network) isolate() error {
	n.gate.shut.Store(true)
	for _, id := range n.host.Network().Peers() {
		if err := n.host.Network().ClosePeer(id); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) rejoin() { n.gate.shut.Store(false) }
