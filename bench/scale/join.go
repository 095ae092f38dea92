package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// join opens an empty replica that hears of the first one and waits until it has
// everything. Its put hook counts the keys: it is called once for each.
func (b *bench) join(ctx context.Context, net *bus, first *replica) (*replica, error) {
	end, err := b.profile("join")
	if err != nil {
		return nil, err
	}
	m := b.meter("join", b.keys, b.dirOf("b"))
	r, err := openReplica(place{
		kind: b.store, dir: b.dirOf("b"), member: net.join(), peer: first,
		onPut: func(ds.Key, []byte) { m.add(1) },
	})
	if err == nil {
		err = awaitKeys(ctx, r, first, b.keys, func() int { return int(m.count.Load()) })
	}
	if err = errors.Join(err, m.stop(), end()); err != nil && r != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, err
}

// patience is how long a replica may merge nothing before this program gives up.
const patience = 2 * time.Minute

// awaitKeys waits until a replica has the heads of another, since a block becomes
// a head only when all that is below it has been merged, and until all keys have
// been counted: hooks run after the commit that makes the head.
func awaitKeys(ctx context.Context, r, other *replica, keys int, count func() int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	merged, since := 0, time.Now()
	for count() < keys || !sameHeads(ctx, r, other) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if now := count(); now != merged {
			merged, since = now, time.Now()
		} else if time.Since(since) > patience {
			return fmt.Errorf("nothing was merged for %s after %d keys", patience, merged)
		}
	}
	return nil
}

func sameHeads(ctx context.Context, r, other *replica) bool {
	return slices.Equal(r.InternalStats(ctx).Heads, other.InternalStats(ctx).Heads)
}
