package main

import (
	"fmt"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// deleteOverwritten measures the Delete of keys that have many versions.
func deleteOverwritten(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	versions := e.size(400)
	keys := makePairs("/bench", 5)
	took, err := medianOf(len(keys), func(i int) (time.Duration, error) {
		for v := range versions {
			if err := db.Put(e.ctx, keys[i].key, fmt.Append(nil, v)); err != nil {
				return 0, err
			}
		}
		return e.timedDelete(db, keys[i].key)
	})
	if err != nil {
		return err
	}
	e.millis("delete", took)
	return verify(e.ctx, db)
}

// deleteParent measures the Delete of a key that has many keys below it. They must
// survive.
func deleteParent(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	children := makePairs("/p", e.size(50_000))
	if err := putBatches(1000)(e.ctx, db, children); err != nil {
		return err
	}
	parent := ds.NewKey("/p")
	took, err := medianOf(5, func(int) (time.Duration, error) {
		if err := db.Put(e.ctx, parent, []byte("parent")); err != nil {
			return 0, err
		}
		return e.timedDelete(db, parent)
	})
	if err != nil {
		return err
	}
	e.millis("delete", took)
	return verify(e.ctx, db, children)
}

// timedDelete deletes a key that is there.
func (e *env) timedDelete(db ds.Datastore, key ds.Key) (time.Duration, error) {
	if _, err := db.Get(e.ctx, key); err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return timed(func() error { return db.Delete(e.ctx, key) })
}

// rounds shows whether the past makes writes slower: it writes and deletes the same
// keys over and over again, and compares the median round of the last tenth with that of
// the first. So a pause of the machine, which is as long as many rounds, changes nothing.
func rounds(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	pairs := makePairs("/bench", 10)
	took := make([]time.Duration, e.size(300))
	all, err := timed(func() error { return e.putAndDelete(db, pairs, took) })
	if err != nil {
		return err
	}
	tenth := len(took) / 10
	first, last := quantile(took[:tenth], 0.5), quantile(took[len(took)-tenth:], 0.5)
	e.millis("all", all)
	e.lower("last tenth ÷ first", last.Seconds()/first.Seconds(), "×")
	return verify(e.ctx, db)
}

// putAndDelete takes down how long each round took.
func (e *env) putAndDelete(db ds.Batching, pairs []pair, took []time.Duration) error {
	for i := range took {
		start := time.Now()
		if err := putAll(e.ctx, db, pairs); err != nil {
			return err
		}
		for _, p := range pairs {
			if err := db.Delete(e.ctx, p.key); err != nil {
				return err
			}
		}
		took[i] = time.Since(start)
	}
	return nil
}
