package main

import (
	"errors"
	"time"

	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// besideMost is how long a Put may take on a busy machine, whatever goes on with checkpoints.
const besideMost = 100 // ms

// beside measures how long Puts take while a long history of overwritten keys gets its first
// checkpoint, which removes the losers, while it is dropped, and while a newcomer takes the
// checkpoint of many keys.
func beside(e *env) error {
	w := newWriter(liveKeys)
	r, err := e.open(bed.NewDAG(), plain)
	if err != nil {
		return err
	}
	if err := w.write(e.ctx, r, e.size(200_000), batchKeys); err != nil {
		return err
	}
	pause := func() error { time.Sleep(time.Second); return nil }
	checkpoint := func() error { _, err := r.Checkpoint(e.ctx); return err }
	compact := func() error { _, err := r.Compact(e.ctx); return err }
	return errors.Join(
		e.whilePutting(r, "nothing", pause),
		e.whilePutting(r, "Checkpoint", checkpoint),
		e.whilePutting(r, "Compact", compact),
		e.takeBeside(),
	)
}

func (e *env) takeBeside() error {
	w := newWriter(e.size(300_000))
	r, err := e.open(bed.NewDAG(), plain)
	if err != nil {
		return err
	}
	if err := w.write(e.ctx, r, w.keys, 100); err != nil {
		return err
	}
	head, err := r.Checkpoint(e.ctx)
	if err != nil {
		return err
	}
	dag := bed.NewDAG()
	dag.Sources = []*bed.DAG{r.dag}
	newcomer, err := e.open(dag, plain)
	if err != nil {
		return err
	}
	newcomer.radio.Heard <- head.Cid.Bytes()
	for dag.Requests.Load() < 2 && e.ctx.Err() == nil { // it has asked for pages: who writes first has something of the DAG, and walks
		time.Sleep(time.Millisecond)
	}
	return e.whilePutting(newcomer, "take", func() error {
		for newcomer.InternalStats(e.ctx).LastCheckpoint.Cid != head.Cid && e.ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		return e.ctx.Err()
	})
}

// whilePutting measures Puts beside something.
func (e *env) whilePutting(r *replica, name string, do func() error) error {
	slowest := e.putBeside(r)
	began := time.Now()
	err := do()
	took := time.Since(began)
	_, worst := slowest()
	e.found(name, took.Seconds(), 0, "s")
	e.found(name+": slowest Put beside", float64(worst)/float64(time.Millisecond), besideMost, "ms")
	return err
}
