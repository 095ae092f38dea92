package crdt

import (
	"context"
	"errors"
	"sync"
	"time"
)

// whilePagesCome returns a context that ends once no page has come for a while though some
// are waited for, or while others wait: they may wait for as long as pages come, which
// peers decide. waited may be nil; it is not called any more when end returns.
func (s *blockStore) whilePagesCome(ctx context.Context, waited func() bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { cancel(s.watchPages(ctx, waited)) })
	return ctx, func() {
		cancel(nil)
		watch.Wait()
	}
}

// pagePatience is how long that is. On a slow link several large pages share the time.
const pagePatience = 30 * time.Second

var (
	errNoneCome  = errors.New("no page has come for a while")
	errWaitedFor = errors.New("others have waited for long enough")
)

// watchPages returns why no more pages are to be waited for.
func (s *blockStore) watchPages(ctx context.Context, waited func() bool) error {
	ticks := time.NewTicker(pagePatience / 2)
	defer ticks.Stop()
	silent := 0 // ticks
	for tick, before := 1, s.pagesGot.Load(); ; tick++ {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := s.pagesGot.Load()
		if silent++; now != before || s.pagesWanted.Load() == 0 {
			silent = 0
		}
		switch {
		case silent == 2:
			return errNoneCome
		case tick%2 == 0 && waited != nil && waited():
			return errWaitedFor
		}
		before = now
	}
}
