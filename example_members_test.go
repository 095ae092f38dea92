package crdt_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"

	crdt "github.com/ipfs/go-ds-crdt"
)

// newHost makes a host of a private network: hosts without its secret of 32
// bytes cannot even connect. (The transport has to be TCP or WebSocket.)
func newHost(secret pnet.PSK) host.Host {
	h, err := libp2p.New(
		libp2p.PrivateNetwork(secret),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		log.Fatal(err)
	}
	return h
}

// join joins a topic on which only members are heard. Messages are signed, which
// is the default of pubsub, and GetFrom says who signed. Peers do not even pass
// on what a validator rejects.
func join(ctx context.Context, h host.Host, topic string, members map[peer.ID]bool) *crdt.PubSubBroadcaster {
	psub, err := pubsub.NewGossipSub(ctx, h)
	if err != nil {
		log.Fatal(err)
	}
	isMember := func(_ context.Context, _ peer.ID, msg *pubsub.Message) bool { return members[msg.GetFrom()] }
	if err := psub.RegisterTopicValidator(topic, isMember); err != nil {
		log.Fatal(err)
	}
	bcast, err := crdt.NewPubSubBroadcaster(ctx, psub, topic)
	if err != nil {
		log.Fatal(err)
	}
	return bcast
}

// connect connects two hosts.
func connect(ctx context.Context, from, to host.Host) error {
	return from.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Addrs()})
}

// say joins the topic, waits until a peer is there, and sends a message.
func say(ctx context.Context, from, to host.Host, topic, msg string) error {
	everyone := map[peer.ID]bool{from.ID(): true, to.ID(): true}
	bcast := join(ctx, from, topic, everyone)
	if err := connect(ctx, from, to); err != nil {
		return err
	}
	if err := bcast.Joined(ctx); err != nil {
		return err
	}
	return bcast.Broadcast(ctx, []byte(msg))
}

// Two ways to keep strangers out: a private network and a validator of the topic.
// Example_signedDeltas shows the third, Options.CheckDelta.
func ExampleNewPubSubBroadcaster_members() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	secret, another := pnet.PSK(make([]byte, 32)), pnet.PSK(append(make([]byte, 31), 1))
	alice, bob, guest, stranger := newHost(secret), newHost(secret), newHost(secret), newHost(another)
	for _, h := range []host.Host{alice, bob, guest, stranger} {
		defer h.Close()
	}
	topic := "cluster-state"
	atBob := join(ctx, bob, topic, map[peer.ID]bool{alice.ID(): true, bob.ID(): true})

	if err := connect(ctx, stranger, bob); err != nil {
		fmt.Println("the stranger cannot connect")
	}
	if err := say(ctx, guest, bob, topic, "hello from the guest"); err != nil {
		log.Fatal(err)
	}
	if err := say(ctx, alice, bob, topic, "hello from alice"); err != nil {
		log.Fatal(err)
	}
	msg, err := atBob.Next(ctx)
	fmt.Printf("bob hears %q, %v\n", msg, err)
	// Output:
	// the stranger cannot connect
	// bob hears "hello from alice", <nil>
}
