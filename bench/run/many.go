package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
	"golang.org/x/sync/errgroup"
)

const (
	manyKeys  = 100                  // that each of many writers puts
	manyEvery = 5 * time.Millisecond // it puts one
)

// many measures n replicas that all put keys of their own, at a steady rate, until they agree. Messages
// and blocks take 5 ms.
func many(n int) func(*env) error {
	return func(e *env) error {
		c := newCrowd(n)
		defer c.stop()
		if err := c.open(e); err != nil {
			return err
		}
		keys := e.size(manyKeys)
		cpu := cpuTime()
		took, err := timed(func() error {
			if err := c.write(e.ctx, keys); err != nil {
				return err
			}
			return awaitAgreement(e.ctx, c.replicas)
		})
		if err != nil {
			return err
		}
		return c.report(e, keys, took, cpuTime()-cpu)
	}
}

// A crowd is replicas that hear each other and get blocks from each other.
type crowd struct {
	dags     []*bed.DAG
	radios   []*bed.Station
	replicas []*crdt.Datastore
	messages atomic.Int64 // sent
	stop     func()

	mu       sync.Mutex
	puts     []time.Duration
	maxHeads int
}

func newCrowd(n int) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{dags: make([]*bed.DAG, n), radios: make([]*bed.Station, n), stop: stop}
	for i := range n {
		c.dags[i] = bed.NewDAG()
		c.dags[i].Delay = requestDelay
		c.radios[i] = bed.NewStation(func(message []byte) {
			c.messages.Add(1)
			time.AfterFunc(requestDelay, func() { c.hear(ctx, i, message) })
		})
	}
	for i, dag := range c.dags {
		for j := range n - 1 {
			dag.Sources = append(dag.Sources, c.dags[(i+1+j)%n])
		}
	}
	return c
}

// hear has all but one hear a message.
func (c *crowd) hear(ctx context.Context, from int, message []byte) {
	for i, r := range c.radios {
		if i == from {
			continue
		}
		select {
		case r.Heard <- message:
		case <-ctx.Done():
		}
	}
}

func (c *crowd) open(e *env) error {
	for i, dag := range c.dags {
		replica, err := e.openReplica(dag, c.radios[i], rebroadcasting(time.Second))
		if err != nil {
			return err
		}
		c.replicas = append(c.replicas, replica)
	}
	return nil
}

// write has every replica put keys of its own. One that is late does not wait for the next.
func (c *crowd) write(ctx context.Context, keys int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, replica := range c.replicas {
		pairs := makePairs(fmt.Sprintf("/bench/%d", i), keys)
		group.Go(func() error {
			tick := time.NewTicker(manyEvery)
			defer tick.Stop()
			for _, p := range pairs {
				<-tick.C
				heads := len(replica.InternalStats(ctx).Heads) // afterwards there is one
				start := time.Now()
				if err := replica.Put(ctx, p.key, p.value); err != nil {
					return err
				}
				c.note(time.Since(start), heads)
			}
			return nil
		})
	}
	return group.Wait()
}

func (c *crowd) note(put time.Duration, heads int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts, c.maxHeads = append(c.puts, put), max(c.maxHeads, heads)
}

func (c *crowd) report(e *env, keys int, took, cpu time.Duration) error {
	blocks, bytes := c.dags[0].Weight()
	links, err := c.links()
	if err != nil {
		return err
	}
	written := len(c.replicas) * keys
	e.lower("time ÷ writing", float64(took)/float64(time.Duration(keys)*manyEvery), "×")
	e.millis("put p50", quantile(c.puts, 0.5))
	e.millis("put p99", quantile(c.puts, 0.99))
	e.lower("CPU of a block at a replica", float64(cpu.Microseconds())/float64(blocks*len(c.replicas)), "µs")
	e.lower("bytes of blocks", float64(bytes)/float64(written), "B/key")
	e.lower("links", float64(links)/float64(blocks), "per block")
	requests := int64(0)
	for _, dag := range c.dags {
		requests += dag.Requests.Load()
	}
	e.lower("blocks fetched", float64(requests)/float64(blocks*len(c.replicas)), "of all merged")
	e.lower("messages", float64(c.messages.Load())/float64(written), "per key")
	e.lower("heads at most", float64(c.maxHeads), "heads")
	return nil
}

// links counts those of all blocks.
func (c *crowd) links() (n int, err error) {
	for _, b := range c.dags[0].All() {
		node, err := merkledag.DecodeProtobuf(b.RawData())
		if err != nil {
			return 0, err
		}
		n += len(node.Links())
	}
	return n, nil
}
