package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	// writersEach is how many writers a replica has. They write at the same time.
	writersEach = 3
	// maxValue is the length of the longest values, and a bit.
	maxValue = 1 << 10
	// maxBatch is how many keys a ds.Batch changes at most.
	maxBatch = 20
)

// writer makes up the changes of one of the writers of a replica.
type writer struct {
	ledger *ledger // of its own keys
	random *rand.Rand
	name   string
	shared int // how many keys there are that all write
	own    int
	count  int // of the values made so far, which makes them differ
}

func newWriter(cfg config, slot, n int) *writer {
	name := fmt.Sprintf("%d.%d", slot, n)
	return &writer{
		ledger: newLedger("/own/" + name + "/"),
		random: rand.New(rand.NewPCG(cfg.seed, uint64(slot*writersEach+n+1))),
		name:   name,
		shared: cfg.keys / 2,
		own:    cfg.keys / 2 / (cfg.replicas * writersEach),
	}
}

// next makes up a change, of its own keys too if it may.
func (w *writer) next(own bool) Change {
	switch n := w.random.IntN(10); {
	case n < 6:
		return Change{Puts: []Pair{w.pair(w.key(own))}}
	case n < 8:
		return Change{Deletes: []string{w.key(own)}}
	default:
		return w.batch(own)
	}
}

// batch changes each key once.
func (w *writer) batch(own bool) Change {
	c := Change{Batch: true}
	seen := make(map[string]bool)
	for range 2 + w.random.IntN(maxBatch-1) {
		key := w.key(own)
		if seen[key] {
			continue
		}
		seen[key] = true
		if w.random.IntN(4) == 0 {
			c.Deletes = append(c.Deletes, key)
		} else {
			c.Puts = append(c.Puts, w.pair(key))
		}
	}
	return c
}

// key picks a key. Every fourth shared key lies below another one.
func (w *writer) key(own bool) string {
	if own && w.random.IntN(2) == 0 {
		return fmt.Sprint(w.ledger.prefix, w.random.IntN(w.own))
	}
	n := w.random.IntN(w.shared)
	if n%4 == 3 {
		return fmt.Sprintf("/shared/%d/%d", n-1, n)
	}
	return fmt.Sprintf("/shared/%d", n)
}

// pair makes a value up that says which key it is for, or is empty.
func (w *writer) pair(key string) Pair {
	w.count++
	if w.random.IntN(50) == 0 {
		return Pair{key, ""}
	}
	filler := strings.Repeat(string(rune('a'+w.random.IntN(26))), w.random.IntN(maxValue))
	return Pair{key, fmt.Sprintf("%s %s %d %s", key, w.name, w.count, filler)}
}

// misplaced names a pair whose value was written for another key.
func misplaced(pairs map[string]string) error {
	for key, value := range pairs {
		if value != "" && !strings.HasPrefix(value, key+" ") {
			return fmt.Errorf("%s has a value that was never written to it: %s", key, brief(value))
		}
	}
	return nil
}

// pause is how long to wait after so many keys, to write so many a second all in all.
func pause(keys, rate int) time.Duration {
	mean := time.Duration(keys) * time.Second * writersEach / time.Duration(rate)
	return mean/2 + rand.N(mean)
}
