package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"time"

	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
	"github.com/ipfs/go-ds-crdt/bench/result"
	ipld "github.com/ipfs/go-ipld-format"
)

// namespace keeps the rows of a replica apart from the blocks that may be in the same
// store.
var namespace = ds.NewKey("/crdt")

// env is what a scenario runs in, and takes down what it found.
type env struct {
	ctx   context.Context
	dir   string
	kind  string // of the stores
	raw   bool
	quick bool

	profile string // the file for it, or ""

	stores  int // opened so far
	closers []func() error
	metrics []result.Metric
}

func (e *env) higher(name string, value float64, unit string) {
	e.metrics = append(e.metrics, result.Metric{Name: name, Value: value, Unit: unit, Better: result.Higher})
}

func (e *env) lower(name string, value float64, unit string) {
	e.metrics = append(e.metrics, result.Metric{Name: name, Value: value, Unit: unit, Better: result.Lower})
}

func (e *env) rate(name string, keys int, took time.Duration) {
	e.higher(name, float64(keys)/took.Seconds(), "keys/s")
}

func (e *env) millis(name string, took time.Duration) {
	e.lower(name, float64(took)/float64(time.Millisecond), "ms")
}

// size is n, or a twentieth of it in a quick run.
func (e *env) size(n int) int {
	if e.quick {
		return max(1, n/20)
	}
	return n
}

// openStore opens one more empty store.
func (e *env) openStore() (ds.Batching, error) {
	e.stores++
	store, err := bed.OpenStore(e.kind, filepath.Join(e.dir, strconv.Itoa(e.stores)))
	if err == nil {
		e.onClose(store.Close)
	}
	return store, err
}

// rebroadcasting are the options of replicas that miss announcements.
func rebroadcasting(interval time.Duration) *crdt.Options {
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = interval
	return opts
}

// openReplica opens a replica on an empty store.
func (e *env) openReplica(dag ipld.DAGService, bcast crdt.Broadcaster, opts *crdt.Options) (*crdt.Datastore, error) {
	store, err := e.openStore()
	if err != nil {
		return nil, err
	}
	return e.openReplicaOn(store, dag, bcast, opts)
}

func (e *env) openReplicaOn(store ds.Batching, dag ipld.DAGService, bcast crdt.Broadcaster, opts *crdt.Options) (*crdt.Datastore, error) {
	replica, err := crdt.New(store, namespace, dag, bcast, opts)
	if err == nil {
		e.onClose(replica.Close)
	}
	return replica, err
}

// openDatabase opens what is measured alone: a replica without a network that keeps
// its blocks in memory, or the bare store.
func (e *env) openDatabase() (ds.Batching, error) {
	if e.raw {
		return e.openStore()
	}
	return e.openReplica(bed.NewDAG(), nil, nil)
}

func (e *env) onClose(f func() error) { e.closers = append(e.closers, f) }

// close closes everything, the latest first.
func (e *env) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	e.closers = nil
	return errors.Join(errs...)
}
