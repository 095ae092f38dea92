package main

import (
	"context"
	"sync"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// wants is an exchange that keeps which blocks it was asked for.
type wants struct {
	exchange.SessionExchange
	mu    sync.Mutex
	asked *cid.Set
}

func (w *wants) note(cids ...cid.Cid) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range cids {
		w.asked.Add(c)
	}
}

// missing counts those that are not here.
func (w *wants) missing(ctx context.Context, blocks blockstore.Blockstore) (count int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err = w.asked.ForEach(func(c cid.Cid) error {
		has, err := blocks.Has(ctx, c)
		if err == nil && !has {
			count++
		}
		return err
	})
	return count, err
}

func (w *wants) NewSession(ctx context.Context) exchange.Fetcher {
	return &session{w.SessionExchange.NewSession(ctx), w}
}

func (w *wants) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	return (&session{w.SessionExchange, w}).GetBlock(ctx, c)
}

func (w *wants) GetBlocks(ctx context.Context, cids []cid.Cid) (<-chan blocks.Block, error) {
	return (&session{w.SessionExchange, w}).GetBlocks(ctx, cids)
}

// session notes what it is asked for.
type session struct {
	exchange.Fetcher
	wants *wants
}

func (s *session) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	s.wants.note(c)
	return s.Fetcher.GetBlock(ctx, c)
}

func (s *session) GetBlocks(ctx context.Context, cids []cid.Cid) (<-chan blocks.Block, error) {
	s.wants.note(cids...)
	return s.Fetcher.GetBlocks(ctx, cids)
}
