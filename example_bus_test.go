package crdt_test

import (
	"context"
	"sync"

	crdt "github.com/ipfs/go-ds-crdt"
)

// A bus is a network in memory: what one peer broadcasts, all others get.
type bus struct {
	mu    sync.Mutex
	peers []*busPeer
}

func newBus() *bus { return &bus{} }

type busPeer struct {
	bus   *bus
	inbox chan []byte
}

var _ crdt.Broadcaster = (*busPeer)(nil)

func (b *bus) peer() *busPeer {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &busPeer{bus: b, inbox: make(chan []byte, 16)}
	b.peers = append(b.peers, p)
	return p
}

func (p *busPeer) Broadcast(_ context.Context, data []byte) error {
	p.bus.mu.Lock()
	defer p.bus.mu.Unlock()
	for _, to := range p.bus.peers {
		if to == p {
			continue
		}
		select {
		case to.inbox <- data:
		default: // lost: heads are announced again
		}
	}
	return nil
}

func (p *busPeer) Next(ctx context.Context) ([]byte, error) {
	select {
	case data := <-p.inbox:
		return data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
