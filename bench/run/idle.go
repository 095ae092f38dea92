package main

import (
	"runtime"

	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// idle measures what replicas take that do nothing: all on one store, each with a key in it.
func idle(n int) func(*env) error {
	return func(e *env) error {
		store, err := e.openStore()
		if err != nil {
			return err
		}
		dag, n := bed.NewDAG(), e.size(n)
		before := usedNow()
		for _, p := range makePairs("/bench", n) {
			bcast := bed.NewQuietStation()
			replica, err := crdt.New(store, namespace.ChildString(p.key.Name()), dag, bcast, crdt.DefaultOptions())
			if err != nil {
				return err
			}
			e.onClose(replica.Close)
			if err := replica.Put(e.ctx, ds.NewKey("/k"), p.value); err != nil {
				return err
			}
		}
		after := usedNow()
		e.lower("memory", float64(after.bytes-before.bytes)/float64(n)/1024, "KiB/replica")
		e.lower("goroutines", float64(after.goroutines-before.goroutines)/float64(n), "per replica")
		return nil
	}
}

type used struct{ bytes, goroutines int }

// usedNow is what is in use once nothing is left that can go: heap and stacks.
func usedNow() used {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{int(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()}
}
