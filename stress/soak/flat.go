package main

import (
	"errors"
	"fmt"
	"slices"
)

// quantity is something that must not grow with the history or with time. The median of
// the last third of its samples may be half as much again as that of the first third, plus
// slack for what comes and goes.
type quantity struct {
	name  string
	unit  string
	scale float64 // of the unit
	slack float64 // in the unit
	of    func(sample) uint64
}

const mebi = 1 << 20

// The heap has in it what libp2p remembers of the last two minutes. Badger's part comes and
// goes with the tables that it is building. What a memtable has not used yet of its 83 MiB is
// not resident, and there may be two of them.
var quantities = []quantity{
	{"heap but Badger's", "MiB", mebi, 4, func(s sample) uint64 { return s.Heap }},
	{"heap of package crdt", "MiB", mebi, 1, func(s sample) uint64 { return s.Crdt }},
	{"anonymous resident memory", "MiB", mebi, 128, func(s sample) uint64 { return s.anon }},
	{"goroutines", "", 1, 40, func(s sample) uint64 { return uint64(s.Goroutines) }},
	{"open files but the store's", "", 1, 10, func(s sample) uint64 { return uint64(s.handles) }},
}

// storeQuantities are flat as well if history is dropped. What has been covered by the last
// checkpoint and not been dropped yet comes and goes.
var storeQuantities = []quantity{
	{"rows of the store", "", 1, 5000, func(s sample) uint64 { return uint64(s.Rows) }},
	{"bytes in them", "MiB", mebi, 8, func(s sample) uint64 { return s.Stored }},
}

func (c *controller) quantities() []quantity {
	if c.cfg.keepHistory == 0 {
		return quantities
	}
	return slices.Concat(quantities, storeQuantities)
}

// leastSamples is how many a trend is seen in. The first one is not used: it is from
// before the caches are full.
const leastSamples = 7

// series are samples in the order of time that should be alike.
type series struct {
	name    string
	samples []sample
}

// lives counts the processes that the samples are from.
func (s series) lives() int {
	seen := make(map[*process]bool)
	for _, sample := range s.samples {
		seen[sample.life] = true
	}
	return len(seen)
}

// allSeries are the samples of each replica, through all its lives, and those of each
// life that was long enough.
func (c *controller) allSeries() (all []series) {
	for n := range c.slots {
		var samples []sample
		for _, p := range c.calms {
			samples = append(samples, p.samples[n])
		}
		all = append(all, series{fmt.Sprintf("replica %d", n), samples})
		if long := longestLife(samples); len(long) < len(samples) {
			all = append(all, series{fmt.Sprintf("replica %d's longest life", n), long})
		}
	}
	return slices.DeleteFunc(all, func(s series) bool { return len(s.samples) < leastSamples })
}

func longestLife(samples []sample) (longest []sample) {
	for len(samples) > 0 {
		n := slices.IndexFunc(samples, func(s sample) bool { return s.life != samples[0].life })
		if n < 0 {
			n = len(samples)
		}
		if n > len(longest) {
			longest = samples[:n]
		}
		samples = samples[n:]
	}
	return longest
}

// trend returns the medians of the first third and of the last one.
func (q quantity) trend(s series) (first, last float64) {
	var values []float64
	for _, sample := range s.samples[1:] {
		values = append(values, float64(q.of(sample))/q.scale)
	}
	third := len(values) / 3
	return median(values[:third]), median(values[len(values)-third:])
}

// show prints an amount.
func (q quantity) show(amount float64) string {
	if q.unit == "" {
		return fmt.Sprintf("%.0f", amount)
	}
	return fmt.Sprintf("%.1f %s", amount, q.unit)
}

func (q quantity) flat(first, last float64) bool { return last <= first*1.5+q.slack }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// checkFlat names all that has grown.
func (c *controller) checkFlat() error {
	var errs []error
	for _, s := range c.allSeries() {
		for _, q := range c.quantities() {
			if first, last := q.trend(s); !q.flat(first, last) {
				errs = append(errs, fmt.Errorf("%s: %s grew from %s to %s, by more than half and %s",
					s.name, q.name, q.show(first), q.show(last), q.show(q.slack)))
			}
		}
	}
	return errors.Join(errs...)
}
