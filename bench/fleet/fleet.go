package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	"golang.org/x/sync/errgroup"
)

const (
	settlePatience = 15 * time.Minute // until all replicas hold the same
	earlyRounds    = 3                // rebroadcast intervals before anybody writes
	quietRounds    = 3                // and after all hold the same
)

// A fleet is replicas on a network.
type fleet struct {
	plan
	ctx      context.Context
	net      *network
	log      *log
	replicas []*crdt.Datastore
}

// measure makes a run in fake time.
func measure(t *testing.T, p plan) (r row, err error) {
	synctest.Test(t, func(t *testing.T) { r, err = measureInBubble(t.Context(), p) })
	return r, err
}

func measureInBubble(ctx context.Context, p plan) (r row, err error) {
	ctx, stop := context.WithCancel(ctx)
	f := &fleet{plan: p, ctx: ctx, net: newNetwork(p.replicas, p.seed), log: planWrites(p)}
	ended := make(chan struct{})
	go func() { f.net.run(ctx); close(ended) }()
	defer func() {
		err = errors.Join(err, f.close())
		stop()
		<-ended
	}()
	if err := f.open(); err != nil {
		return r, err
	}
	return f.run()
}

func (f *fleet) open() error {
	for i, p := range f.net.peers {
		opts := crdt.DefaultOptions()
		opts.PutHook = f.log.hook(i)
		replica, err := crdt.New(&store{}, ds.NewKey("/crdt"), p.dag, p.radio, opts)
		if err != nil {
			return err
		}
		f.replicas = append(f.replicas, replica)
	}
	return nil
}

func (f *fleet) close() (err error) {
	for _, replica := range f.replicas {
		err = errors.Join(err, replica.Close())
	}
	return err
}

// run writes, waits until all replicas hold the same, and then for a while. Before, it waits until
// the replicas announce their heads at any moment, and not all at the same time after their start.
func (f *fleet) run() (r row, err error) {
	interval := crdt.DefaultOptions().RebroadcastInterval
	time.Sleep(earlyRounds * interval)
	m := f.begin()
	if err := f.write(); err != nil {
		return r, err
	}
	wrote := time.Now()
	if err := f.settle(); err != nil {
		return r, err
	}
	settled := time.Since(wrote)
	r = m.row()
	r.settled = settled
	if err := f.checkPairs(); err != nil {
		return r, err
	}
	quiet := f.begin()
	time.Sleep(quietRounds * interval)
	r.repeats = float64(quiet.traffic().published) / quietRounds
	return r, nil
}

func (f *fleet) write() error {
	group, ctx := errgroup.WithContext(f.ctx)
	f.log.start = time.Now()
	for i := range f.log.writes {
		w := &f.log.writes[i]
		time.Sleep(w.after - time.Since(f.log.start))
		group.Go(func() error {
			replica := f.replicas[w.by]
			w.heads = len(replica.InternalStats(ctx).Heads)
			err := replica.Put(ctx, keyOf(i), valueOf(i))
			w.returned = time.Since(f.log.start)
			return err
		})
	}
	return group.Wait()
}

// settle waits until all replicas hold the same.
func (f *fleet) settle() error {
	for end := time.Now().Add(settlePatience); time.Now().Before(end); time.Sleep(time.Second) {
		complete, err := f.log.complete(len(f.replicas))
		if err != nil {
			return err
		}
		if complete && f.agree() {
			return nil
		}
	}
	return fmt.Errorf("the replicas do not come to hold the same within %s: %d of %d pairs have come to one",
		settlePatience, f.log.came.Load(), len(f.log.writes)*len(f.replicas))
}

// agree returns whether all replicas have the same heads.
func (f *fleet) agree() bool {
	first := f.headsOf(0)
	for i := range f.replicas {
		if !slices.Equal(f.headsOf(i), first) {
			return false
		}
	}
	return true
}

func (f *fleet) headsOf(i int) (ids []string) {
	for _, head := range f.replicas[i].InternalStats(f.ctx).Heads {
		ids = append(ids, head.Cid.KeyString())
	}
	slices.Sort(ids)
	return ids
}

// checkPairs returns an error unless all replicas hold what was written, and nothing else.
func (f *fleet) checkPairs() error {
	want := make(map[string][]byte)
	for i := range f.log.writes {
		want[keyOf(i).String()] = valueOf(i)
	}
	for i, replica := range f.replicas {
		held := 0
		for result, err := range ds.QueryIter(f.ctx, replica, query.Query{}) {
			if err != nil {
				return err
			}
			if !bytes.Equal(result.Value, want[result.Key]) {
				return fmt.Errorf("replica %d has a value of %s that was not put", i, result.Key)
			}
			held++
		}
		if held != len(want) {
			return fmt.Errorf("replica %d has %d pairs instead of %d", i, held, len(want))
		}
	}
	return nil
}
