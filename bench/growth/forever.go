package main

import (
	"fmt"
	"time"

	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// forever overwrites keys all the time, and looks ten times what that has come to.
func forever(e *env) error {
	w := newWriter(liveKeys)
	r, err := e.open(bed.NewDAG(), func(o *crdt.Options) {
		growing(o)
		o.KeepHistory = time.Second
	})
	if err != nil {
		return err
	}
	var first weight
	const looks = 10
	for i := range looks {
		if err := w.write(e.ctx, r, e.size(1_000_000)/looks, batchKeys); err != nil {
			return err
		}
		if _, err := r.Checkpoint(e.ctx); err != nil {
			return err
		}
		if _, err := r.Compact(e.ctx); err != nil {
			return err
		}
		now, err := r.weigh(e.ctx)
		if err != nil {
			return err
		}
		if i == 0 {
			first = now
		}
		// A tenth more than at first, and what each block since then may cost.
		grown := float64(idBytes * w.blocks * i / (i + 1))
		name := fmt.Sprintf("after %d overwrites: ", w.blocks*batchKeys)
		e.found(name+"bytes of rows", float64(now.rowBytes), 1.1*float64(first.rowBytes)+grown, "B")
		e.found(name+"bytes of blocks", float64(now.blockBytes), 1.1*float64(first.blockBytes)+grown, "B")
	}
	return w.check(e.ctx, r)
}
