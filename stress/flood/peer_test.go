package flood

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/ipfs/go-ds-crdt"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const topic = "flood"

// A peer is a libp2p host with a DAG service, all in memory.
type peer struct {
	ctx    context.Context // ends with the test
	host   host.Host
	gossip *pubsub.PubSub
	store  ds.Batching
	dag    ipld.DAGService
}

func openPeer(t *testing.T) *peer {
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{ctx: ctx, store: dssync.MutexWrap(ds.NewMapDatastore())}
	var err error
	p.host, err = libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	must(t, err)
	blocks := blockstore.NewBlockstore(p.store)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(p.host), nil, blocks)
	p.dag = merkledag.NewDAGService(blockservice.New(blocks, swap))
	t.Cleanup(func() {
		cancel()
		must(t, swap.Close())
		must(t, p.host.Close())
	})
	// A new connection is in no mesh until the next heartbeat; flooding reaches it at once.
	p.gossip, err = pubsub.NewGossipSub(ctx, p.host, pubsub.WithFloodPublish(true))
	must(t, err)
	return p
}

func (p *peer) connect(t *testing.T, to *peer) {
	must(t, p.host.Connect(t.Context(), *host.InfoFromHost(to.host)))
	await(t, "a subscription", func() bool { return slices.Contains(p.gossip.ListPeers(topic), to.host.ID()) })
}

// A replica is a peer that holds pairs.
type replica struct {
	*peer
	*crdt.Datastore
}

func openReplica(t *testing.T, opts *crdt.Options) *replica {
	r := &replica{peer: openPeer(t)}
	broadcaster, err := crdt.NewPubSubBroadcaster(r.ctx, r.gossip, topic)
	must(t, err)
	r.Datastore, err = crdt.New(r.store, ds.NewKey("/crdt"), r.dag, broadcaster, opts)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits for a condition.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
