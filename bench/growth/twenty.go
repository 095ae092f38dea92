package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
	"golang.org/x/sync/errgroup"
)

const writers = 20

// twenty has as many replicas overwrite the same keys at the same time, all with
// checkpoints. When half is written, a newcomer joins them, and another one in the end.
func twenty(e *env) error {
	live, _, err := e.measure("live state", liveKeys, plain, nil)
	if err != nil {
		return err
	}
	c := newCircle(e, writers+1)
	for i := range writers {
		if err := c.open(0); err != nil {
			return err
		}
		c.writers = append(c.writers, newWriterOf(uint64(i), liveKeys))
	}
	half := e.size(100_000) / 2
	if err := c.write(half); err != nil {
		return err
	}
	amid := c.log.uncovered()
	if err := c.openNewcomer(delay); err != nil {
		return err
	}
	if err := c.write(half); err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	return c.report(live, amid)
}

// A circle is replicas that hear each other, and get blocks from each other.
type circle struct {
	*env
	radios   []*radio
	dags     []*bed.DAG
	replicas []*replica
	writers  []*writer // of the first replicas
	log      blockLog  // of the first replica
}

// A blockLog is what a replica has heard of.
type blockLog struct {
	mu          sync.Mutex
	blocks      map[cid.Cid]bool
	checkpoints int
	bytes       int64 // of all deltas
	covered     int64 // of those before the newest checkpoint
}

// note is an Options.CheckDelta.
func (l *blockLog) note(_ context.Context, head crdt.Head, d crdt.Delta) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blocks[head.Cid] {
		return nil
	}
	l.blocks[head.Cid] = true
	l.bytes += int64(d.Size())
	if d.IsEmpty() { // a checkpoint alone changes nothing
		l.checkpoints++
		l.covered = l.bytes
	}
	return nil
}

// uncovered returns what tells how many bytes of deltas have come since the checkpoint that
// is the newest one now.
func (l *blockLog) uncovered() func() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	covered := l.covered
	return func() float64 { return float64(l.bytes - covered) }
}

func newCircle(e *env, n int) *circle {
	c := &circle{env: e, log: blockLog{blocks: make(map[cid.Cid]bool)}}
	for _, station := range bed.NewStations(n) {
		c.radios = append(c.radios, &radio{station, make(chan struct{}, 1)})
		c.dags = append(c.dags, bed.NewDAG())
	}
	for i, dag := range c.dags {
		for j := range n - 1 {
			dag.Sources = append(dag.Sources, c.dags[(i+1+j)%n])
		}
	}
	return c
}

// A radio says when somebody joins, as a PubSubBroadcaster does.
type radio struct {
	*bed.Station
	joined chan struct{}
}

// Joined implements crdt.JoinNotifier.
func (r *radio) Joined(ctx context.Context) error {
	select {
	case <-r.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openNewcomer opens the next replica, which has heard nothing so far. The others are told that it is
// there.
func (c *circle) openNewcomer(delay time.Duration) error {
	for heard := c.radios[len(c.replicas)].Heard; len(heard) > 0; {
		<-heard
	}
	if err := c.open(delay); err != nil {
		return err
	}
	for _, r := range c.radios {
		r.joined <- struct{}{}
	}
	return nil
}

// open opens the next replica. It waits for so long for a block.
func (c *circle) open(delay time.Duration) error {
	i := len(c.replicas)
	c.dags[i].Delay = delay
	r, err := c.openAt(c.dags[i], c.radios[i], func(o *crdt.Options) {
		growing(o)
		o.KeepHistory = time.Second
		if i == 0 {
			o.CheckDelta = c.log.note
		}
	})
	c.replicas = append(c.replicas, r)
	return err
}

// write has all writers write, n keys in all.
func (c *circle) write(n int) error {
	group, ctx := errgroup.WithContext(c.ctx)
	for i, w := range c.writers {
		group.Go(func() error { return w.write(ctx, c.replicas[i], n/writers, batchKeys) })
	}
	return group.Wait()
}

// settle waits until all have the same, with one last checkpoint above it, and have dropped
// what that covers.
func (c *circle) settle() error {
	if err := c.await(c.agree); err != nil {
		return err
	}
	head, err := c.replicas[0].Checkpoint(c.ctx)
	if err != nil {
		return err
	}
	hold := func(r *replica) bool { // maybe another one, which somebody has made above it
		return r.InternalStats(c.ctx).LastCheckpoint.Head.Height >= head.Height
	}
	if err := c.await(func() bool { return c.all(hold) }); err != nil {
		return err
	}
	for _, r := range c.replicas {
		if _, err := r.Compact(c.ctx); err != nil {
			return err
		}
	}
	return c.samePairs()
}

// await waits for something that is to come about within minutes.
func (c *circle) await(done func() bool) error {
	for end := time.Now().Add(10 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if c.ctx.Err() != nil || time.Now().After(end) {
			return errors.Join(errors.New("the replicas do not come to hold the same"), c.ctx.Err())
		}
	}
	return nil
}

func (c *circle) all(are func(*replica) bool) bool {
	for _, r := range c.replicas {
		if !are(r) {
			return false
		}
	}
	return true
}

func (c *circle) agree() bool {
	heads := c.replicas[0].InternalStats(c.ctx).Heads
	return c.all(func(r *replica) bool { return sameHeads(r.InternalStats(c.ctx).Heads, heads) })
}

func (c *circle) samePairs() error {
	first, err := c.replicas[0].all(c.ctx)
	if err != nil {
		return err
	}
	c.writers[0].pairs = first
	for i, r := range c.replicas[1:] {
		held, err := r.all(c.ctx)
		if err == nil && !maps.Equal(held, first) {
			err = fmt.Errorf("replica %d holds other pairs than the first, with the same heads", i+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// report compares the replica that keeps most with the live state. uncovered tells what has
// been written since the checkpoint that the newcomer could take.
func (c *circle) report(live *measured, uncovered func() float64) error {
	blocks := 0
	for _, w := range c.writers {
		blocks += w.blocks
	}
	most := &measured{}
	for _, r := range c.replicas {
		w, err := r.weigh(c.ctx)
		if err != nil {
			return err
		}
		most.weight = most.weight.orMore(w)
	}
	var err error
	if most.fetched, most.took, err = c.join(c.writers[0], c.replicas[0]); err != nil {
		return err
	}
	c.env.report("the greatest of all", most, live, blocks)
	fetched := float64(c.dags[writers].Fetched.Load())
	c.found("a newcomer amid them fetches", fetched, 1.5*float64(live.fetched)+idBytes*float64(blocks)+1.1*uncovered(), "B")
	c.found("blocks written", float64(blocks), 0, "")
	c.found("checkpoints made", float64(c.log.checkpoints), 0, "")
	return nil
}
