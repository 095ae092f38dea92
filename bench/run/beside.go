package main

import (
	"context"
	"time"

	ds "github.com/ipfs/go-datastore"
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
		j, err := e.openJoiner(pairs, keysPerBlock)
		if err != nil {
			return err
		}
		own, more := makePairs("/own", e.size(besideAlone)), makePairs("/beside", 100_000)
		alone, err := putAndGet(e.ctx, j.replica, own)
		if err != nil {
			return err
		}
		ctx, joined := context.WithCancel(e.ctx)
		var took time.Duration
		failed := make(chan error, 1)
		go func() {
			defer joined()
			start := time.Now()
			err := j.join(e.ctx)
			took = time.Since(start)
			failed <- err
		}()
		beside, err := putAndGet(ctx, j.replica, more)
		if err == nil {
			err = <-failed
		}
		if err != nil {
			return err
		}
		e.millis("join", took)
		e.reportCalls("alone", alone)
		e.reportCalls("beside", beside)
		return verifyArrived(e.ctx, j.replica, pairs, own, more[:len(beside.puts)])
	}
}

// A callTimes is how long calls took.
type callTimes struct{ puts, gets []time.Duration }

// putAndGet puts pairs, and gets each, one every millisecond, until it has all or ctx ends. It
// does so with one at least.
func putAndGet(ctx context.Context, d ds.Datastore, pairs []pair) (t callTimes, err error) {
	tick := time.NewTicker(besideEvery)
	defer tick.Stop()
	whole := context.WithoutCancel(ctx)
	for _, p := range pairs {
		<-tick.C
		start := time.Now()
		if err := d.Put(whole, p.key, p.value); err != nil {
			return t, err
		}
		put := time.Now()
		if _, err := d.Get(whole, p.key); err != nil {
			return t, err
		}
		t.puts, t.gets = append(t.puts, put.Sub(start)), append(t.gets, time.Since(put))
		if ctx.Err() != nil {
			break
		}
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
