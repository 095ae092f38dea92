package main

import (
	"math"
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

func TestMedian(t *testing.T) {
	none := math.NaN()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{1, 2, 4, 9}, 3},
		{[]float64{none, 5, none}, 5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	if got := median([]float64{none}); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

// rate and latency are the metrics of a made-up scenario.
func found(pair int, s side, rate, latency float64) outcome {
	return outcome{job: job{pair, "badger", "live", s}, Seconds: 2, Metrics: []result.Metric{
		{Name: "rate", Value: rate, Unit: "keys/s", Better: result.Higher},
		{Name: "latency", Value: latency, Unit: "ms", Better: result.Lower},
	}}
}

func killed(pair int) outcome {
	return outcome{job: job{pair, "badger", "live", theirs}, Seconds: 120, TimedOut: true, Error: "killed"}
}

func onlyTable(t *testing.T, outcomes []outcome, targets ...target) table {
	t.Helper()
	tables := tabulate(outcomes, targets)
	if len(tables) != 1 || len(tables[0].rows) != 2 {
		t.Fatalf("%+v is not one table of two rows", tables)
	}
	return tables[0]
}

func TestRatioIsTheMedianOfThePairs(t *testing.T) {
	table := onlyTable(t, []outcome{
		found(0, ours, 100, 1), found(0, theirs, 50, 3), // twice, three times as good
		found(1, ours, 900, 2), found(1, theirs, 100, 10), // nine, five
		found(2, ours, 400, 1), found(2, theirs, 100, 8), // four, eight
	})
	rate, latency := table.rows[0], table.rows[1]
	if rate.ours != 400 || rate.theirs != 100 || rate.ratio != 4 {
		t.Errorf("the rate is %+v", rate)
	}
	if latency.ours != 1 || latency.theirs != 8 || latency.ratio != 5 {
		t.Errorf("the latency is %+v", latency)
	}
	if !math.IsNaN(rate.bare) || !math.IsNaN(rate.toBare) {
		t.Errorf("the bare store, which was not measured, has figures: %+v", rate)
	}
}

func TestBareStore(t *testing.T) {
	rate := onlyTable(t, []outcome{found(0, bare, 200, 1), found(0, ours, 50, 1)}).rows[0]
	if rate.bare != 200 || rate.toBare != 0.25 || !math.IsNaN(rate.ratio) {
		t.Errorf("the rate is %+v", rate)
	}
}

func TestKilledRunCountsAsAWhole(t *testing.T) {
	table := onlyTable(t, []outcome{found(0, ours, 100, 1), killed(0)}, target{"live", "rate", "badger", thanTheirs, 50})
	rate := table.rows[0]
	if rate.ratio != 60 {
		t.Errorf("120 s against 2 s is a ratio of %v", rate.ratio)
	}
	for _, cell := range []string{"> 2m0s", "≥ 60", "yes"} {
		if text := table.render(false); !strings.Contains(text, cell) {
			t.Errorf("%q is missing in\n%s", cell, text)
		}
	}
	if err := failures([]outcome{killed(0)}); err != nil {
		t.Errorf("a slow run of theirs is a failure: %v", err)
	}
}

func TestFailures(t *testing.T) {
	broken := outcome{job: job{0, "pebble", "put", theirs}, Error: "a key is missing"}
	slow := outcome{job: job{0, "pebble", "get", ours}, TimedOut: true, Error: "killed"}
	err := failures([]outcome{found(0, ours, 1, 1), broken, slow})
	if err == nil || !strings.Contains(err.Error(), "a key is missing") || !strings.Contains(err.Error(), "get on pebble, ours") {
		t.Errorf("the failures are: %v", err)
	}
}

func TestDerived(t *testing.T) {
	rate := func(scenario string, keys float64) outcome {
		return outcome{job: job{0, "badger", scenario, ours}, Metrics: []result.Metric{{Name: "rate", Value: keys}}}
	}
	measured := []outcome{rate("put", 10), rate("put64", 40)}
	all := withDerived(measured)
	if got := all[1].value("÷ put"); got != 4 {
		t.Errorf("64 goroutines are %v times as fast as one", got)
	}
	if len(measured[1].Metrics) != 1 {
		t.Error("what was measured has been changed")
	}
	if alone := withDerived(measured[1:]); len(alone[0].Metrics) != 1 {
		t.Error("there is something to compare with nothing")
	}
}
