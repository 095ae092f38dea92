package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
)

// arrivals waits for pairs to become visible on a replica. Its arrive is the PutHook.
type arrivals struct {
	mu      sync.Mutex
	missing map[ds.Key]struct{}
	last    ds.Key        // the latest to arrive
	none    chan struct{} // closed when nothing is missing any more
}

// watch lets the options of a replica tell of every pair.
func (a *arrivals) watch(opts *crdt.Options) *crdt.Options {
	opts.PutHook = a.arrive
	return opts
}

func (a *arrivals) arrive(key ds.Key, _ []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.missing[key]; !ok {
		return
	}
	delete(a.missing, key)
	a.last = key
	if len(a.missing) == 0 {
		close(a.none)
	}
}

// expect says which pairs to wait for. They must not be there yet.
func (a *arrivals) expect(pairs []pair) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.none = make(chan struct{})
	a.missing = make(map[ds.Key]struct{}, len(pairs))
	for _, p := range pairs {
		a.missing[p.key] = struct{}{}
	}
}

// wait returns once all expected pairs have arrived. The released module calls the hook
// before it commits, so the last pair must also be seen.
func (a *arrivals) wait(ctx context.Context, db ds.Datastore) error {
	select {
	case <-a.none:
		return awaitKey(ctx, db, a.last)
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("%d keys have not arrived: %w", len(a.missing), ctx.Err())
	}
}

func awaitKey(ctx context.Context, db ds.Datastore, key ds.Key) error {
	for {
		if ok, err := db.Has(ctx, key); ok || err != nil {
			return err
		}
		runtime.Gosched()
	}
}

// verifyArrived is verify for pairs that came from another replica. Some of the released
// module may still be on their way from the hook to the store.
func verifyArrived(ctx context.Context, db ds.Datastore, want ...[]pair) error {
	var err error
	for range 100 {
		if err = verify(ctx, db, want...); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
