package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// A log is what was written, when, and when it came to each replica.
type log struct {
	start  time.Time
	writes []write
	came   atomic.Int64 // pairs that have come to a replica, of all there are to come
	faults atomic.Int64 // hooks that told of what nobody wrote
}

// A write is a Put, of a key of its own.
type write struct {
	after    time.Duration // when it is made
	by       int           // the replica
	heads    int           // that the replica had before
	returned time.Duration
	came     []time.Duration // by the replica
}

const (
	keyPrefix = "/pair/"
	valueSize = 100
)

// planWrites says what is written. A write comes at any time, as if nobody knew of the others.
func planWrites(p plan) *log {
	rng := rand.New(rand.NewPCG(p.seed, 0))
	l := &log{start: time.Now(), writes: make([]write, int(p.span.Seconds()*float64(p.rate)))}
	for i := range l.writes {
		l.writes[i] = write{after: time.Duration(rng.Int64N(int64(p.span))), by: rng.IntN(p.replicas), came: make([]time.Duration, p.replicas)}
	}
	slices.SortFunc(l.writes, func(a, b write) int { return int(a.after - b.after) })
	return l
}

func keyOf(i int) ds.Key { return ds.NewKey(keyPrefix + strconv.Itoa(i)) }

func valueOf(i int) []byte {
	value := make([]byte, valueSize)
	rng := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)})
	_, _ = rng.Read(value) // never fails
	return value
}

// hook returns what notes the pairs of a replica as they come.
func (l *log) hook(replica int) func(ds.Key, []byte) {
	return func(k ds.Key, _ []byte) {
		i, err := strconv.Atoi(strings.TrimPrefix(k.String(), keyPrefix))
		if err != nil || i >= len(l.writes) || l.writes[i].came[replica] != 0 {
			l.faults.Add(1)
			return
		}
		l.writes[i].came[replica] = time.Since(l.start)
		l.came.Add(1)
	}
}

// complete returns whether every pair has come to every replica, or what is wrong.
func (l *log) complete(replicas int) (bool, error) {
	if n := l.faults.Load(); n > 0 {
		return false, fmt.Errorf("%d hooks told of a pair that was not written, or of one twice", n)
	}
	return int(l.came.Load()) == len(l.writes)*replicas, nil
}

// delays returns how long writes took to come to other replicas, those after which and to which
// a condition holds. It sorts them.
func (l *log) delays(hold func(w *write, to int) bool) (all []time.Duration) {
	for i := range l.writes {
		w := &l.writes[i]
		for to, came := range w.came {
			if to != w.by && hold(w, to) {
				all = append(all, max(0, came-w.returned))
			}
		}
	}
	slices.Sort(all)
	return all
}

// quantile is the value that a fraction q of all stays below.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
