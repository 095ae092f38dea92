package main

import (
	"fmt"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// side is what is measured.
type side string

// The sides.
const (
	ours   side = "ours"
	theirs side = "theirs"
	bare   side = "bare" // the store without a replica
)

// job is one run of the program.
type job struct {
	Pair     int    `json:"pair"`
	Store    string `json:"store"`
	Scenario string `json:"scenario"`
	Side     side   `json:"side"`
}

func (j job) String() string { return fmt.Sprintf("%s on %s, %s", j.Scenario, j.Store, j.Side) }

// plan puts the runs that are compared one after the other, so that a change of the
// machine's mood meets them all.
func (c config) plan(scenarios []result.Scenario) []job {
	var jobs []job
	for pair := range c.pairs {
		for _, store := range c.stores {
			for _, scenario := range scenarios {
				for _, s := range sidesOf(scenario) {
					jobs = append(jobs, job{pair, store, scenario.Name, s})
				}
			}
		}
	}
	return jobs
}

func sidesOf(scenario result.Scenario) []side {
	if scenario.Raw {
		return []side{bare, ours, theirs}
	}
	return []side{ours, theirs}
}
