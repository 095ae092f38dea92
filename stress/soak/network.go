package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	libnet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	redialEvery = 300 * time.Millisecond
	dialWithin  = 3 * time.Second
)

// network is a libp2p host that keeps connected to the peers it was told of.
type network struct {
	host   host.Host
	gate   *gate
	pubsub *pubsub.PubSub

	mu     sync.Mutex
	wanted []peer.AddrInfo
	done   sync.WaitGroup
}

// listen makes a host, with the identity that the file keyFile has or gets.
func listen(ctx context.Context, keyFile string) (*network, error) {
	key, err := identity(keyFile)
	if err != nil {
		return nil, err
	}
	g := new(gate)
	h, err := libp2p.New(
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ConnectionGater(g),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		return nil, err
	}
	ps, err := pubsub.NewGossipSub(ctx, h)
	if err != nil {
		return nil, err
	}
	n := &network{host: h, gate: g, pubsub: ps}
	n.done.Go(func() { n.keepConnected(ctx) })
	return n, nil
}

func identity(file string) (crypto.PrivKey, error) {
	bytes, err := os.ReadFile(file)
	if err == nil {
		return crypto.UnmarshalPrivateKey(bytes)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	if bytes, err = crypto.MarshalPrivateKey(key); err != nil {
		return nil, err
	}
	return key, os.WriteFile(file, bytes, 0o600)
}

// addr is what another peer needs to connect.
func (n *network) addr() (string, error) {
	addrs, err := peer.AddrInfoToP2pAddrs(host.InfoFromHost(n.host))
	if err != nil {
		return "", err
	}
	return addrs[0].String(), nil
}

// setLinks replaces what is known of the other replicas. Connections to those that are
// cut off end at once.
func (n *network) setLinks(links []Link) error {
	cut := make(map[peer.ID]bool)
	var wanted []peer.AddrInfo
	for _, link := range links {
		info, err := peer.AddrInfoFromString(link.Addr)
		if err != nil {
			return err
		}
		if link.Cut {
			cut[info.ID] = true
		} else {
			wanted = append(wanted, *info)
		}
	}
	n.gate.set(cut)
	n.want(wanted)
	for id := range cut {
		if err := n.host.Network().ClosePeer(id); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) want(peers []peer.AddrInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = peers
}

func (n *network) keepConnected(ctx context.Context) {
	for tick := time.NewTicker(redialEvery); ; {
		select {
		case <-tick.C:
			n.dialMissing(ctx)
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// dialMissing dials at once, even if a dial has just failed because of a cut, and only
// where the peer listens now.
func (n *network) dialMissing(ctx context.Context) {
	n.mu.Lock()
	wanted := n.wanted
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	var dials sync.WaitGroup
	for _, info := range wanted {
		if n.host.Network().Connectedness(info.ID) == libnet.Connected {
			continue
		}
		n.host.Peerstore().ClearAddrs(info.ID)
		if s, ok := n.host.Network().(*swarm.Swarm); ok {
			s.Backoff().Clear(info.ID)
		}
		dials.Go(func() { _ = n.host.Connect(ctx, info) }) // it is tried again soon
	}
	dials.Wait()
}

func (n *network) close() error {
	n.done.Wait()
	return n.host.Close()
}
