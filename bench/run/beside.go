package main

import (
	"context"
	"time"

	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

const (
	besideEvery = time.Millisecond
	besideAlone = 2000 // Puts, and Gets, without a join
)

// besideJoin measures Puts and Gets at a replica that gets the history of another one, and the
// same before.
func besideJoin(count, keysPerBlock int) func(*env) error {
	return func(e *env) error {
		pairs := makePairs("/bench", e.size(count)*keysPerBlock)
		source, head, err := e.writeHistory(pairs, keysPerBlock)
		if err != nil {
			return err
		}
		dag := bed.NewDAG()
		dag.Sources, dag.Delay = []*bed.DAG{source}, requestDelay
		arrived := new(arrivals)
		radio := bed.NewStation(bed.Silent)
		joiner, err := e.openReplica(dag, radio, arrived.watch(crdt.DefaultOptions()))
		if err != nil {
			return err
		}
		own := makePairs("/own", e.size(besideAlone))
		alone, err := putAndGet(e.ctx, joiner, own)
		if err != nil {
			return err
		}
		arrived.expect(pairs)
		ctx, joined := context.WithCancel(e.ctx)
		var took time.Duration
		failed := make(chan error, 1)
		go func() {
			defer joined()
			start := time.Now()
			radio.Heard <- head
			failed <- arrived.wait(e.ctx, joiner)
			took = time.Since(start)
		}()
		more := makePairs("/beside", 100_000)
		beside, err := putAndGet(ctx, joiner, more)
		if err == nil {
			err = <-failed
		}
		if err != nil {
			return err
		}
		e.millis("join", took)
		e.reportCalls("alone", alone)
		e.reportCalls("beside", beside)
		return verifyArrived(e.ctx, joiner, pairs, own, more[:len(beside.puts)])
	}
}

// A callTimes is how long calls took.
type callTimes struct{ puts, gets []time.Duration }

// putAndGet puts pairs, and gets each, one every millisecond, until it has all or ctx ends.
func putAndGet(ctx context.Context, d ds.Datastore, pairs []pair) (t callTimes, err error) {
	tick := time.NewTicker(besideEvery)
	defer tick.Stop()
	whole := context.WithoutCancel(ctx)
	for _, p := range pairs {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return t, nil
		}
		start := time.Now()
		if err := d.Put(whole, p.key, p.value); err != nil {
			return t, err
		}
		put := time.Now()
		if _, err := d.Get(whole, p.key); err != nil {
			return t, err
		}
		t.puts, t.gets = append(t.puts, put.Sub(start)), append(t.gets, time.Since(put))
	}
	return t, nil
}

func (e *env) reportCalls(when string, t callTimes) {
	for _, calls := range []struct {
		name string
		took []time.Duration
	}{{"put", t.puts}, {"get", t.gets}} {
		for _, q := range []struct {
			name  string
			value float64
		}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
			e.millis(calls.name+" "+when+" "+q.name, quantile(calls.took, q.value))
		}
	}
}
