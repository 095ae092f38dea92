package main

import (
	"time"

	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// couple is two replicas that hear each other. What is written to one arrives at the
// other.
type couple struct {
	from, to *crdt.Datastore
	before   []pair // what both hold already
	arrived  *arrivals
}

// inProcess makes a couple whose announcements take no time and whose blocks are
// shared.
func inProcess(e *env) (couple, error) {
	dag, radios, arrived := bed.NewDAG(), bed.NewStations(2), new(arrivals)
	from, err := e.openReplica(dag, radios[0], nil)
	if err != nil {
		return couple{}, err
	}
	to, err := e.openReplica(dag, radios[1], arrived.watch(crdt.DefaultOptions()))
	return couple{from: from, to: to, arrived: arrived}, err
}

// stream measures how fast batches of 100 get to the other side.
func stream(connect func(*env) (couple, error), keys int) func(*env) error {
	return func(e *env) error {
		c, err := connect(e)
		if err != nil {
			return err
		}
		pairs := makePairs("/bench", e.size(keys))
		c.arrived.expect(pairs)
		took, err := timed(func() error {
			if err := putBatches(100)(e.ctx, c.from, pairs); err != nil {
				return err
			}
			return c.arrived.wait(e.ctx, c.to)
		})
		if err != nil {
			return err
		}
		e.rate("rate", len(pairs), took)
		return verifyArrived(e.ctx, c.to, c.before, pairs)
	}
}

// latency measures how long single Puts take to get to the other side.
func latency(connect func(*env) (couple, error), keys int) func(*env) error {
	return func(e *env) error {
		c, err := connect(e)
		if err != nil {
			return err
		}
		pairs := makePairs("/bench", e.size(keys))
		took := make([]time.Duration, len(pairs))
		for i := range pairs {
			if took[i], err = e.send(c, pairs[i:i+1]); err != nil {
				return err
			}
		}
		e.millis("p50", quantile(took, 0.5))
		e.millis("p99", quantile(took, 0.99))
		return verifyArrived(e.ctx, c.to, c.before, pairs)
	}
}

// send writes pairs and waits until they have arrived.
func (e *env) send(c couple, pairs []pair) (time.Duration, error) {
	c.arrived.expect(pairs)
	start := time.Now()
	if err := putAll(e.ctx, c.from, pairs); err != nil {
		return 0, err
	}
	err := c.arrived.wait(e.ctx, c.to)
	return time.Since(start), err
}
