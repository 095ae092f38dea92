package main

import (
	"bytes"
	"context"
	"sync"

	crdt "github.com/ipfs/go-ds-crdt"
)

// A radio is the Broadcaster of a replica.
type radio struct {
	net  *network
	peer *peer
	wake chan struct{} // something has been heard

	mu    sync.Mutex
	heard [][]byte
}

var _ crdt.BlockCarrier = (*radio)(nil)

func newRadio(net *network, p *peer) *radio {
	return &radio{net: net, peer: p, wake: make(chan struct{}, 1)}
}

// InlineBlockSize implements crdt.BlockCarrier as crdt.PubSubBroadcaster does.
func (r *radio) InlineBlockSize() int { return 16 << 10 }

// Broadcast implements crdt.Broadcaster.
func (r *radio) Broadcast(_ context.Context, data []byte) error {
	r.net.publish(r.peer, data)
	return nil
}

// Next implements crdt.Broadcaster.
func (r *radio) Next(ctx context.Context) ([]byte, error) {
	for {
		if data, ok := r.take(); ok {
			return bytes.Clone(data), nil // others get the same bytes
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, crdt.ErrNoMoreBroadcast
		}
	}
}

func (r *radio) hear(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, data)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *radio) take() (data []byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.heard) == 0 {
		return nil, false
	}
	data, r.heard = r.heard[0], r.heard[1:]
	return data, true
}
