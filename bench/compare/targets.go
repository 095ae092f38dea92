package main

import "fmt"

// target is what our figure of a metric should be on a store.
type target struct {
	scenario, metric, store string
	than                    yardstick
	bound                   float64
}

// yardstick says what a target is a bound of.
type yardstick int

// The yardsticks.
const (
	thanTheirs yardstick = iota // at least so many times better
	thanBare                    // at least this part of the bare store
	atMost                      // our figure itself
	moreThan
)

// targets are the goals of the module.
var targets = []target{
	{"put", "rate", "badger", thanTheirs, 1.5},
	{"put64", "rate", "badger", thanTheirs, 40},
	{"put64", "÷ put", "badger", moreThan, 1},
	{"batch1000", "rate", "badger", thanTheirs, 3},
	{"batch1000", "rate", "badger", thanBare, 0.25},
	{"batch30000", "rate", "badger", thanTheirs, 10},
	{"overwrite-delete", "delete", "badger", thanTheirs, 100},
	{"rounds", "last tenth ÷ first", "badger", atMost, 1.2},
	{"delete-parent", "delete", "badger", thanTheirs, 50},
	{"query", "with values", "badger", thanTheirs, 1.5},
	{"query", "first 10 in order", "badger", thanTheirs, 100},
	{"join1000", "time", "badger", thanTheirs, 20},
	{"join1000", "delays end to end", "badger", atMost, 60},
	{"join100x1000", "time", "badger", thanTheirs, 3},
	{"live100", "rate", "badger", thanTheirs, 2},
	{"libp2p-live100", "rate", "badger", thanTheirs, 8},
	{"libp2p-latency", "p50", "badger", thanTheirs, 3},
	{"libp2p-join", "rate", "badger", thanTheirs, 20},
	{"libp2p-newcomer", "since the connection", "badger", thanTheirs, 10},
	{"libp2p-newcomer", "since the mesh", "badger", atMost, 1000},
	{"repair", "time", "badger", thanTheirs, 2},
	{"disk", "disk", "pebble", thanTheirs, 1 / 0.85},
	{"disk-puts", "disk", "pebble", thanTheirs, 1 / 0.85},
}

func (t target) String() string {
	switch t.than {
	case thanTheirs:
		return fmt.Sprintf("≥ %s×", figure(t.bound))
	case thanBare:
		return fmt.Sprintf("≥ %s× bare", figure(t.bound))
	case atMost:
		return "≤ " + figure(t.bound)
	default:
		return "> " + figure(t.bound)
	}
}

// met judges a row. What is not known is not met.
func (t target) met(r row) bool {
	switch t.than {
	case thanTheirs:
		return r.ratio >= t.bound
	case thanBare:
		return r.toBare >= t.bound
	case atMost:
		return r.ours <= t.bound
	default:
		return r.ours > t.bound
	}
}

func (t target) isFor(r row) bool {
	return t.scenario == r.scenario && t.metric == r.metric && t.store == r.store
}
