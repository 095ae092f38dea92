package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// randomGets measures Gets, each of which is checked.
func randomGets(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	pairs := makePairs("/bench", e.size(20_000))
	if err := putBatches(1000)(e.ctx, db, pairs); err != nil {
		return err
	}
	gets := shuffled(pairs, e.size(200_000))
	took, err := timed(func() error { return e.getAll(db, gets) })
	if err != nil {
		return err
	}
	e.higher("rate", float64(len(gets))/took.Seconds(), "ops/s")
	return nil
}

// shuffled picks n pairs at random.
func shuffled(pairs []pair, n int) []pair {
	random := rand.New(rand.NewPCG(seed, 0))
	picked := make([]pair, n)
	for i := range picked {
		picked[i] = pairs[random.IntN(len(pairs))]
	}
	return picked
}

func (e *env) getAll(db ds.Datastore, pairs []pair) error {
	for _, p := range pairs {
		value, err := db.Get(e.ctx, p.key)
		if err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
		if !bytes.Equal(value, p.value) {
			return fmt.Errorf("%s has a wrong value", p.key)
		}
	}
	return nil
}

// queries measures several Queries over the same pairs, few of which are below a key of
// their own.
func queries(e *env) error {
	db, err := e.openDatabase()
	if err != nil {
		return err
	}
	few := makePairs("/few", e.size(1000))
	many := makePairs("/many", e.size(200_000)-len(few))
	if err := putBatches(1000)(e.ctx, db, append(few, many...)); err != nil {
		return err
	}
	all := len(few) + len(many)
	steps := []func() error{
		func() error { return e.queryRate(db, "keys only", query.Query{KeysOnly: true}, all) },
		func() error { return e.queryRate(db, "with values", query.Query{}, all) },
		func() error { return e.queryTime(db, "first 10 in order", firstTen, few[:10]) },
		func() error { return e.queryTime(db, "1,000 below a prefix", query.Query{Prefix: "/few"}, few) },
		func() error { return verify(e.ctx, db, few, many) },
	}
	return inTurn(steps)
}

var firstTen = query.Query{Limit: 10, Orders: []query.Order{query.OrderByKey{}}}

func inTurn(steps []func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) queryRate(db ds.Datastore, name string, q query.Query, want int) error {
	took, err := e.timedQuery(db, q, want)
	if err != nil {
		return err
	}
	e.rate(name, want, took)
	return nil
}

func (e *env) queryTime(db ds.Datastore, name string, q query.Query, want []pair) error {
	took, err := e.timedQuery(db, q, len(want))
	if err != nil {
		return err
	}
	e.millis(name, took)
	held, err := contents(e.ctx, db, q)
	if err != nil {
		return err
	}
	return verifyPairs(held, want)
}

// timedQuery is how long it takes to read all results, of which there must be a number.
func (e *env) timedQuery(db ds.Datastore, q query.Query, want int) (time.Duration, error) {
	return medianOf(3, func(int) (time.Duration, error) {
		return timed(func() error {
			count, err := e.count(db, q)
			if err == nil && count != want {
				err = fmt.Errorf("%d results instead of %d of %s", count, want, q)
			}
			return err
		})
	})
}

func (e *env) count(db ds.Datastore, q query.Query) (int, error) {
	results, err := db.Query(e.ctx, q)
	if err != nil {
		return 0, err
	}
	defer results.Close()
	count := 0
	for r := range results.Next() {
		if r.Error != nil {
			return count, r.Error
		}
		count++
	}
	return count, nil
}
