package main

import (
	"errors"
	"time"

	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// longLived is a store with a replica of many blocks, and what to open it with again.
type longLived struct {
	store   ds.Batching
	dag     *bed.DAG
	replica *crdt.Datastore
	pairs   []pair
}

func (e *env) openLongLived() (*longLived, error) {
	store, err := e.openStore()
	if err != nil {
		return nil, err
	}
	l := &longLived{store: store, dag: bed.NewDAG(), pairs: makePairs("/bench", 10*e.size(1000))}
	if l.replica, err = e.openReplicaOn(l.store, l.dag, nil, nil); err != nil {
		return nil, err
	}
	return l, e.writeBlocks(l.replica, l.pairs, 10)
}

// reopen measures New and a first Get on a store that is open.
func reopen(e *env) error {
	l, err := e.openLongLived()
	if err != nil {
		return err
	}
	took, err := medianOf(5, func(int) (time.Duration, error) {
		if err := l.replica.Close(); err != nil {
			return 0, err
		}
		return timed(func() (err error) {
			if l.replica, err = e.openReplicaOn(l.store, l.dag, nil, nil); err != nil {
				return err
			}
			return e.getAll(l.replica, l.pairs[:1])
		})
	})
	if err != nil {
		return err
	}
	e.millis("time", took)
	return verify(e.ctx, l.replica, l.pairs)
}

// repair measures the walk over all blocks.
func repair(e *env) error {
	l, err := e.openLongLived()
	if err != nil {
		return err
	}
	took, err := medianOf(3, func(int) (time.Duration, error) {
		l.replica.MarkDirty(e.ctx)
		return timed(func() error { return l.replica.Repair(e.ctx) })
	})
	if err != nil {
		return err
	}
	if l.replica.IsDirty(e.ctx) {
		return errors.New("it is still dirty after a repair")
	}
	e.millis("time", took)
	return verify(e.ctx, l.replica, l.pairs)
}
