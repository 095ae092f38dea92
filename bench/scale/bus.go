package main

import (
	"context"
	"sync"

	crdt "github.com/ipfs/go-ds-crdt"
)

// A bus carries broadcasts between the replicas of this process.
type bus struct {
	mu      sync.Mutex
	members []*member
}

// A member is a replica's end of the bus.
type member struct {
	bus    *bus
	inbox  chan []byte
	joined chan struct{} // holds a token when somebody came
}

var (
	_ crdt.Broadcaster  = (*member)(nil)
	_ crdt.JoinNotifier = (*member)(nil)
)

func (b *bus) join() *member {
	m := &member{bus: b, inbox: make(chan []byte, 64), joined: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range b.members {
		select {
		case other.joined <- struct{}{}:
		default:
		}
	}
	b.members = append(b.members, m)
	return m
}

// Broadcast implements crdt.Broadcaster. A member that does not listen misses
// the message, as it may.
func (m *member) Broadcast(_ context.Context, data []byte) error {
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	for _, other := range m.bus.members {
		if other == m {
			continue
		}
		select {
		case other.inbox <- data:
		default:
		}
	}
	return nil
}

// Next implements crdt.Broadcaster.
func (m *member) Next(ctx context.Context) ([]byte, error) {
	select {
	case data := <-m.inbox:
		return data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Joined implements crdt.JoinNotifier.
func (m *member) Joined(ctx context.Context) error {
	select {
	case <-m.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
