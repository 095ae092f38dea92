package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// fold measures the first checkpoint of many keys, and one after ten changes.
func fold(e *env) error {
	w := newWriter(e.size(300_000))
	r, err := e.open(bed.NewDAG(), plain)
	if err != nil {
		return err
	}
	if err := w.write(e.ctx, r, w.keys, 100); err != nil {
		return err
	}
	peak := watchHeap()
	began := time.Now()
	if _, err := r.Checkpoint(e.ctx); err != nil {
		return err
	}
	e.found("first checkpoint", time.Since(began).Seconds(), 15, "s")
	e.found("heap above that before", peak(), 256, "MiB")

	if err := w.write(e.ctx, r, 10, 1); err != nil {
		return err
	}
	slowest := e.putBeside(r)
	before := r.dag.Added.Load()
	began = time.Now()
	if _, err := r.Checkpoint(e.ctx); err != nil {
		return err
	}
	took := time.Since(began)
	puts, worst := slowest()
	e.found("checkpoint after ten changes", took.Seconds(), 0.4, "s")
	e.found("blocks written", float64(r.dag.Added.Load()-before-puts), 60, "")
	e.found("slowest Put beside", float64(worst)/float64(time.Millisecond), 100, "ms")
	return nil
}

// putBeside Puts one key again and again, until the function that it returns is called,
// which tells how many Puts there were, and how long the slowest took.
func (e *env) putBeside(r *replica) (stop func() (int64, time.Duration)) {
	ctx, cancel := context.WithCancel(e.ctx)
	var n atomic.Int64
	var worst time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			began := time.Now()
			if r.Put(e.ctx, ds.NewKey("/beside"), []byte("v")) == nil {
				n.Add(1)
			}
			worst = max(worst, time.Since(began))
			time.Sleep(time.Millisecond)
		}
	}()
	return func() (int64, time.Duration) {
		cancel()
		<-done
		return n.Load(), worst
	}
}

// watchHeap returns what tells by how many MiB the heap has been larger at most than it
// was at first.
func watchHeap() (peak func() float64) {
	runtime.GC()
	first := heap()
	most := first
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				most = max(most, heap())
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-done
		return float64(most-first) / (1 << 20)
	}
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
