package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// row compares one metric of a scenario on a store. Figures are medians over the pairs,
// and not numbers (NaN) where there are none.
type row struct {
	store, scenario, metric, unit string

	ours, theirs, bare float64
	ratio              float64       // how many times better ours is than theirs
	toBare             float64       // how many times better ours is than the bare store
	killed             time.Duration // what a run of theirs got, if it took too long: the ratio is at least so much
	targets            []target
}

// tabulate makes one table for each store, in the order of the outcomes.
func tabulate(outcomes []outcome, targets []target) []table {
	var tables []table
	for _, group := range groups(outcomes) {
		store := group[0].Store
		at := slices.IndexFunc(tables, func(t table) bool { return t.store == store })
		if at < 0 {
			at = len(tables)
			tables = append(tables, table{store: store})
		}
		for _, m := range metricsOf(group) {
			tables[at].rows = append(tables[at].rows, newRow(group, m, targets))
		}
	}
	return tables
}

// groups collects the outcomes of each scenario on each store.
func groups(outcomes []outcome) [][]outcome {
	var all [][]outcome
	for _, o := range outcomes {
		at := slices.IndexFunc(all, func(g []outcome) bool {
			return g[0].Store == o.Store && g[0].Scenario == o.Scenario
		})
		if at < 0 {
			at = len(all)
			all = append(all, nil)
		}
		all[at] = append(all[at], o)
	}
	return all
}

// metricsOf are those of the first run of ours that found something, or else of another.
func metricsOf(group []outcome) []result.Metric {
	var found []result.Metric
	for _, o := range group {
		if len(o.Metrics) > 0 && (o.Side == ours || found == nil) {
			found = o.Metrics
		}
	}
	return found
}

func newRow(group []outcome, m result.Metric, targets []target) row {
	r := row{store: group[0].Store, scenario: group[0].Scenario, metric: m.Name, unit: m.Unit}
	r.ours, r.theirs, r.bare = figures(group, ours, m), figures(group, theirs, m), figures(group, bare, m)
	r.ratio, r.toBare = medianRatio(group, theirs, m), medianRatio(group, bare, m)
	r.killed = killedAfter(group)
	for _, t := range targets {
		if t.isFor(r) {
			r.targets = append(r.targets, t)
		}
	}
	return r
}

func killedAfter(group []outcome) time.Duration {
	for _, o := range group {
		if o.Side == theirs && o.TimedOut {
			return time.Duration(o.Seconds * float64(time.Second)).Round(time.Second)
		}
	}
	return 0
}

func figures(group []outcome, s side, m result.Metric) float64 {
	var values []float64
	for _, o := range group {
		if o.Side == s {
			values = append(values, o.value(m.Name))
		}
	}
	return median(values)
}

// value is that of a metric, or not a number.
func (o outcome) value(metric string) float64 {
	for _, m := range o.Metrics {
		if m.Name == metric {
			return m.Value
		}
	}
	return math.NaN()
}

// medianRatio compares the runs of ours with those of another side, pair by pair.
func medianRatio(group []outcome, other side, m result.Metric) float64 {
	var ratios []float64
	for _, a := range group {
		for _, b := range group {
			if a.Side == ours && b.Side == other && a.Pair == b.Pair {
				ratios = append(ratios, ratio(a, b, m))
			}
		}
	}
	return median(ratios)
}

// ratio says how many times better a is than b. Of a run that was killed only its
// length is known: the other one, as a whole, was at least so many times faster.
func ratio(a, b outcome, m result.Metric) float64 {
	if b.TimedOut && a.Error == "" {
		return b.Seconds / a.Seconds
	}
	if m.Better == result.Higher {
		return a.value(m.Name) / b.value(m.Name)
	}
	return b.value(m.Name) / a.value(m.Name)
}

// median leaves out what is not a number, and is none if nothing is left.
func median(values []float64) float64 {
	known := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(known) == 0 {
		return math.NaN()
	}
	slices.Sort(known)
	n := len(known)
	return (known[(n-1)/2] + known[n/2]) / 2
}

// missed is an error that names all targets that were not met.
func missed(tables []table) error {
	var errs []error
	for _, t := range tables {
		for _, r := range t.rows {
			for _, target := range r.targets {
				if !target.met(r) {
					errs = append(errs, fmt.Errorf("target missed: %s on %s, %s: %s", r.scenario, r.store, r.metric, target))
				}
			}
		}
	}
	return errors.Join(errs...)
}
