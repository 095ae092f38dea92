package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
	"golang.org/x/sync/errgroup"
)

// five measures replicas that change the same keys at the same time, until they agree.
func five(e *env) error {
	replicas, err := e.openCircle(5)
	if err != nil {
		return err
	}
	pairs, changes := makePairs("/bench", 50), e.size(200)
	took, err := timed(func() error {
		if err := changeConcurrently(e.ctx, replicas, pairs, changes); err != nil {
			return err
		}
		return awaitAgreement(e.ctx, replicas)
	})
	if err != nil {
		return err
	}
	e.higher("rate", float64(len(replicas)*changes)/took.Seconds(), "ops/s")
	return nil
}

// openCircle opens replicas that hear each other and share the blocks.
func (e *env) openCircle(n int) ([]*crdt.Datastore, error) {
	dag, replicas := bed.NewDAG(), make([]*crdt.Datastore, n)
	for i, radio := range bed.NewStations(n) {
		var err error
		if replicas[i], err = e.openReplica(dag, radio, rebroadcasting(time.Second)); err != nil {
			return nil, err
		}
	}
	return replicas, nil
}

func changeConcurrently(ctx context.Context, replicas []*crdt.Datastore, pairs []pair, times int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, replica := range replicas {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		group.Go(func() error { return change(ctx, replica, pairs, times, random) })
	}
	return group.Wait()
}

// change does one Delete for every three Puts, on the average.
func change(ctx context.Context, replica *crdt.Datastore, pairs []pair, times int, random *rand.Rand) error {
	for range times {
		key := pairs[random.IntN(len(pairs))].key
		var err error
		if random.IntN(4) == 0 {
			err = replica.Delete(ctx, key)
		} else {
			err = replica.Put(ctx, key, pairs[random.IntN(len(pairs))].value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitAgreement returns once all replicas have the same heads and the same pairs. With
// the same heads, they have merged the same blocks, and no more of them are under way.
func awaitAgreement(ctx context.Context, replicas []*crdt.Datastore) error {
	for !sameHeads(ctx, replicas) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the replicas do not agree: %w", ctx.Err())
		}
	}
	return samePairs(ctx, replicas)
}

func sameHeads(ctx context.Context, replicas []*crdt.Datastore) bool {
	first := heads(ctx, replicas[0])
	return !slices.ContainsFunc(replicas[1:], func(r *crdt.Datastore) bool {
		return !slices.Equal(heads(ctx, r), first)
	})
}

func heads(ctx context.Context, replica *crdt.Datastore) []string {
	return names(replica.InternalStats(ctx).Heads)
}

// names is generic because the modules have heads of different types.
func names[T fmt.Stringer](heads []T) []string {
	all := make([]string, len(heads))
	for i, head := range heads {
		all[i] = head.String()
	}
	slices.Sort(all)
	return all
}

func samePairs(ctx context.Context, replicas []*crdt.Datastore) error {
	first, err := contents(ctx, replicas[0], query.Query{})
	if err != nil {
		return err
	}
	for i, replica := range replicas[1:] {
		other, err := contents(ctx, replica, query.Query{})
		if err != nil {
			return err
		}
		if !maps.EqualFunc(first, other, bytes.Equal) {
			return fmt.Errorf("replica %d holds other pairs than the first, with the same heads", i+2)
		}
	}
	return nil
}
