package main

import (
	"slices"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// withDerived adds what only shows between two scenarios: how many times faster many
// goroutines put than one does.
func withDerived(outcomes []outcome) []outcome {
	all := slices.Clone(outcomes)
	for i, o := range all {
		one := slices.IndexFunc(all, func(p outcome) bool { return p.job == job{o.Pair, o.Store, "put", o.Side} })
		if o.Scenario == "put64" && o.Error == "" && one >= 0 && all[one].Error == "" {
			times := o.value("rate") / all[one].value("rate")
			all[i].Metrics = append(slices.Clip(o.Metrics), result.Metric{Name: "÷ put", Value: times, Unit: "×", Better: result.Higher})
		}
	}
	return all
}
