package crash

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange"
	blocks "github.com/ipfs/go-block-format"
	cid "github.com/ipfs/go-cid"
	crdt "github.com/ipfs/go-ds-crdt"
	ipld "github.com/ipfs/go-ipld-format"
)

// A link is a replica's end of the network between parent and child: its
// Broadcaster and the exchange behind its DAG service. It also gives the other
// end the blocks that are here.
type link struct {
	blocks  blockstore.Blockstore
	latency time.Duration // of each block that is given away
	inbox   chan []byte
	joined  chan struct{} // holds a token when the other end has come

	mu      sync.Mutex
	conn    *conn // nil while there is no other end
	last    uint64
	waiting map[uint64]chan message // for blocks
}

var (
	_ crdt.Broadcaster   = (*link)(nil)
	_ crdt.JoinNotifier  = (*link)(nil)
	_ exchange.Interface = (*link)(nil)
)

func newLink(bs blockstore.Blockstore) *link {
	return &link{
		blocks:  bs,
		inbox:   make(chan []byte, 1024),
		joined:  make(chan struct{}, 1),
		waiting: make(map[uint64]chan message),
	}
}

// connect joins the other end.
func (l *link) connect(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
	select {
	case l.joined <- struct{}{}:
	default:
	}
}

// disconnect fails all requests.
func (l *link) disconnect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = nil
	for id, answer := range l.waiting {
		close(answer)
		delete(l.waiting, id)
	}
}

// receive takes a message that is for a link, and tells whether it is one. It
// does not block.
func (l *link) receive(m message) bool {
	switch m.Kind {
	case broadcast:
		select {
		case l.inbox <- m.Data:
		default: // broadcasts may get lost
		}
	case want:
		time.AfterFunc(l.latency, func() { l.give(m) })
	case block:
		l.mu.Lock()
		defer l.mu.Unlock()
		if answer := l.waiting[m.ID]; answer != nil {
			answer <- m
			delete(l.waiting, m.ID)
		}
	default:
		return false
	}
	return true
}

// give answers a want.
func (l *link) give(asked message) {
	answer := message{Kind: block, ID: asked.ID}
	if c, err := cid.Cast(asked.Data); err == nil {
		if b, err := l.blocks.Get(context.Background(), c); err == nil {
			answer.Data, answer.Found = b.RawData(), true
		}
	}
	l.send(answer)
}

// send sends to the other end, which may not be there, or be killed meanwhile.
func (l *link) send(m message) {
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c != nil {
		_ = c.send(m)
	}
}

// Broadcast implements crdt.Broadcaster. When nobody is there, nobody hears it.
func (l *link) Broadcast(_ context.Context, data []byte) error {
	l.send(message{Kind: broadcast, Data: data})
	return nil
}

// Next implements crdt.Broadcaster.
func (l *link) Next(ctx context.Context) ([]byte, error) {
	select {
	case data := <-l.inbox:
		return data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Joined implements crdt.JoinNotifier.
func (l *link) Joined(ctx context.Context) error {
	select {
	case <-l.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// GetBlock implements exchange.Fetcher.
func (l *link) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	id, answer := l.ask(c)
	defer l.forget(id)
	select {
	case m, ok := <-answer:
		if !ok || !m.Found {
			return nil, ipld.ErrNotFound{Cid: c}
		}
		return blocks.NewBlockWithCid(m.Data, c)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *link) ask(c cid.Cid) (id uint64, answer chan message) {
	answer = make(chan message, 1)
	l.mu.Lock()
	l.last++
	id = l.last
	if l.conn == nil {
		close(answer)
	} else {
		l.waiting[id] = answer
	}
	l.mu.Unlock()
	l.send(message{Kind: want, ID: id, Data: c.Bytes()}) // or disconnect will answer
	return id, answer
}

func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
}

// GetBlocks implements exchange.Fetcher.
func (l *link) GetBlocks(ctx context.Context, cids []cid.Cid) (<-chan blocks.Block, error) {
	out := make(chan blocks.Block, len(cids))
	defer close(out)
	for _, c := range cids {
		if b, err := l.GetBlock(ctx, c); err == nil {
			out <- b
		}
	}
	return out, nil
}

// NotifyNewBlocks implements exchange.Interface.
func (l *link) NotifyNewBlocks(context.Context, ...blocks.Block) error { return nil }

// Close implements exchange.Interface.
func (l *link) Close() error { return nil }
