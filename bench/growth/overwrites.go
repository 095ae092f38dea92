package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

const (
	liveKeys  = 2000
	batchKeys = 20

	// idBytes is what a block ever written may cost for ever.
	idBytes = 20
	// delay is how long a newcomer waits for a block.
	delay = 5 * time.Millisecond
)

// pairs are what a replica should hold.
type pairs map[string]string

// A writer overwrites keys at random, in batches.
type writer struct {
	rnd    *rand.Rand
	keys   int
	pairs  pairs
	blocks int
}

func newWriter(keys int) *writer { return newWriterOf(1, keys) }

// newWriterOf makes one that writes the same as any other of the same number.
func newWriterOf(number uint64, keys int) *writer {
	return &writer{rnd: rand.New(rand.NewPCG(1, number)), keys: keys, pairs: make(pairs)}
}

// batch writes one batch: keys at random, or, at first, all in their order.
func (w *writer) batch(ctx context.Context, to ds.Batching, size int) error {
	b, err := to.Batch(ctx)
	if err != nil {
		return err
	}
	for range size {
		key := fmt.Sprintf("/key/%08d", len(w.pairs))
		if len(w.pairs) == w.keys {
			key = fmt.Sprintf("/key/%08d", w.rnd.IntN(w.keys))
		}
		value := make([]byte, 100)
		for i := range value {
			value[i] = byte(w.rnd.Uint32())
		}
		if err := b.Put(ctx, ds.NewKey(key), value); err != nil {
			return err
		}
		w.pairs[key] = string(value)
	}
	w.blocks++
	return b.Commit(ctx)
}

func (w *writer) write(ctx context.Context, to ds.Batching, n, size int) error {
	for range n / size {
		if err := w.batch(ctx, to, size); err != nil {
			return err
		}
	}
	return nil
}

// check fails unless a replica holds what it should.
func (w *writer) check(ctx context.Context, r *replica) error {
	held, err := r.all(ctx)
	if err == nil && !maps.Equal(held, w.pairs) {
		err = fmt.Errorf("a replica holds %d pairs, and not what it should: %d", len(held), len(w.pairs))
	}
	return err
}

// all returns what a replica holds.
func (r *replica) all(ctx context.Context) (pairs, error) {
	results, err := r.Query(ctx, query.Query{})
	if err != nil {
		return nil, err
	}
	all, err := results.Rest()
	held := make(pairs, len(all))
	for _, e := range all {
		held[e.Key] = string(e.Value)
	}
	return held, err
}

// growing are the options with which a history stops to grow.
func growing(o *crdt.Options) { o.SupersedingPuts, o.CheckpointEvery = true, 1000 }

func plain(*crdt.Options) {}

// overwrites measures the same overwrites without and with checkpoints, and the live
// state alone.
func overwrites(e *env) error {
	live, _, err := e.measure("live state", liveKeys, plain, nil)
	if err != nil {
		return err
	}
	n := e.size(200_000)
	if _, _, err := e.measure("without", n, plain, nil); err != nil {
		return err
	}
	_, _, err = e.measure("with", n, growing, live)
	return err
}

// measured is what one history came to.
type measured struct {
	weight
	fetched int64
	took    time.Duration
}

// measure writes a history, and has a newcomer get it. live is that of the live state
// alone, which it is compared with.
func (e *env) measure(name string, n int, change func(*crdt.Options), live *measured) (*measured, *replica, error) {
	w := newWriter(liveKeys)
	r, err := e.open(bed.NewDAG(), change)
	if err != nil {
		return nil, nil, err
	}
	if err := w.write(e.ctx, r, n, batchKeys); err != nil {
		return nil, nil, err
	}
	if live != nil {
		if err := e.compact(name, r); err != nil {
			return nil, nil, err
		}
	}
	m := &measured{}
	if m.weight, err = r.weigh(e.ctx); err != nil {
		return nil, nil, err
	}
	if err := w.check(e.ctx, r); err != nil {
		return nil, nil, err
	}
	if m.fetched, m.took, err = e.join(w, r); err != nil {
		return nil, nil, err
	}
	e.report(name, m, live, w.blocks)
	return m, r, nil
}

func (e *env) compact(name string, r *replica) error {
	began := time.Now()
	if _, err := r.Checkpoint(e.ctx); err != nil {
		return err
	}
	made := time.Now()
	_, err := r.Compact(e.ctx)
	e.found(name+": Checkpoint", made.Sub(began).Seconds(), 0, "s")
	e.found(name+": Compact", time.Since(made).Seconds(), 0, "s")
	return err
}

func (e *env) report(name string, m, live *measured, blocks int) {
	most := func(factor float64, of func(*measured) float64) float64 {
		if live == nil {
			return 0
		}
		return factor*of(live) + idBytes*float64(blocks)
	}
	rows := func(m *measured) float64 { return float64(m.rows) }
	rowBytes := func(m *measured) float64 { return float64(m.rowBytes) }
	blockBytes := func(m *measured) float64 { return float64(m.blockBytes) }
	fetched := func(m *measured) float64 { return float64(m.fetched) }
	took := func(m *measured) float64 { return m.took.Seconds() * 1000 }
	e.found(name+": rows", rows(m), factorOf(live, 2.5, rows), "")
	e.found(name+": bytes of rows", rowBytes(m), most(2.5, rowBytes), "B")
	e.found(name+": blocks", float64(m.blocks), 0, "")
	e.found(name+": bytes of blocks", blockBytes(m), most(2.5, blockBytes), "B")
	e.found(name+": a newcomer fetches", fetched(m), most(1.5, fetched), "B")
	e.found(name+": in", took(m), factorOf(live, 1.1, took), "ms")
}

func factorOf(live *measured, factor float64, of func(*measured) float64) float64 {
	if live == nil {
		return 0
	}
	return factor * of(live)
}

// join has a newcomer get all that a replica holds.
func (e *env) join(w *writer, from *replica) (fetched int64, took time.Duration, err error) {
	dag := bed.NewDAG()
	dag.Sources, dag.Delay = []*bed.DAG{from.dag}, delay
	r, err := e.open(dag, plain)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	want := from.InternalStats(e.ctx).Heads
	for _, h := range want {
		r.radio.Heard <- h.Cid.Bytes()
	}
	for !sameHeads(r.InternalStats(e.ctx).Heads, want) {
		if e.ctx.Err() != nil || time.Since(began) > 10*time.Minute {
			return 0, 0, fmt.Errorf("a newcomer has heads %v instead of %v", r.InternalStats(e.ctx).Heads, want)
		}
		time.Sleep(time.Millisecond)
	}
	took = time.Since(began)
	return dag.Fetched.Load(), took, w.check(e.ctx, r)
}

func sameHeads(a, b []crdt.Head) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
