package main

import (
	"context"
	"sync"
	"time"

	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// requestDelay is how long the joiner waits for a block. Requests run side by side, so
// what counts is how many of them must follow each other.
const requestDelay = 5 * time.Millisecond

// join measures how a new replica gets the history of another one.
func join(count, keysPerBlock int) func(*env) error {
	return func(e *env) error {
		pairs := makePairs("/bench", e.size(count)*keysPerBlock)
		j, err := e.openJoiner(pairs, keysPerBlock)
		if err != nil {
			return err
		}
		took, err := timed(func() error { return j.join(e.ctx) })
		if err != nil {
			return err
		}
		e.reportJoin(took, len(pairs), j.dag)
		return verifyArrived(e.ctx, j.replica, pairs)
	}
}

// joiner is a new replica that has not heard yet of a history.
type joiner struct {
	replica *crdt.Datastore
	dag     *bed.DAG
	radio   *bed.Station
	head    []byte // the announcement of the history
	arrived *arrivals
}

// openJoiner writes a history of blocks of some keys each, and opens a replica that is to get it.
func (e *env) openJoiner(pairs []pair, keysPerBlock int) (*joiner, error) {
	source, head, err := e.writeHistory(pairs, keysPerBlock)
	if err != nil {
		return nil, err
	}
	j := &joiner{dag: bed.NewDAG(), radio: bed.NewStation(bed.Silent), head: head, arrived: new(arrivals)}
	j.dag.Sources, j.dag.Delay = []*bed.DAG{source}, requestDelay
	j.replica, err = e.openReplica(j.dag, j.radio, j.arrived.watch(crdt.DefaultOptions()))
	j.arrived.expect(pairs)
	return j, err
}

// join returns once the replica has all of the history.
func (j *joiner) join(ctx context.Context) error {
	j.radio.Heard <- j.head
	return j.arrived.wait(ctx, j.replica)
}

func (e *env) reportJoin(took time.Duration, keys int, dag *bed.DAG) {
	e.millis("time", took)
	e.rate("rate", keys, took)
	e.lower("delays end to end", float64(took)/float64(requestDelay), "delays")
	e.lower("requests", float64(dag.Requests.Load()), "requests")
}

// writeHistory writes blocks of some keys each and returns them with the announcement
// of the last one.
func (e *env) writeHistory(pairs []pair, keysPerBlock int) (*bed.DAG, []byte, error) {
	dag := bed.NewDAG()
	var said lastMessage
	replica, err := e.openReplica(dag, bed.NewStation(said.set), nil)
	if err != nil {
		return nil, nil, err
	}
	if err := e.writeBlocks(replica, pairs, keysPerBlock); err != nil {
		return nil, nil, err
	}
	err = replica.Close() // it may announce the last block no sooner
	return dag, said.get(), err
}

// writeBlocks makes one block of every so many keys.
func (e *env) writeBlocks(replica *crdt.Datastore, pairs []pair, keysPerBlock int) error {
	if keysPerBlock == 1 {
		return putAll(e.ctx, replica, pairs)
	}
	return putBatches(keysPerBlock)(e.ctx, replica, pairs)
}

// lastMessage is the last one that was said.
type lastMessage struct {
	mu      sync.Mutex
	message []byte
}

func (l *lastMessage) set(message []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.message = message
}

func (l *lastMessage) get() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.message
}
