package main

import (
	"math"
	"strings"
	"testing"
)

func TestTargets(t *testing.T) {
	r := row{ours: 40, ratio: 3, toBare: 0.3}
	for _, c := range []struct {
		target target
		text   string
		met    bool
	}{
		{target{than: thanTheirs, bound: 3}, "≥ 3×", true},
		{target{than: thanTheirs, bound: 3.5}, "≥ 3.5×", false},
		{target{than: thanBare, bound: 0.25}, "≥ 0.25× bare", true},
		{target{than: thanBare, bound: 0.5}, "≥ 0.5× bare", false},
		{target{than: atMost, bound: 40}, "≤ 40", true},
		{target{than: atMost, bound: 39}, "≤ 39", false},
		{target{than: moreThan, bound: 40}, "> 40", false},
		{target{than: moreThan, bound: 39}, "> 39", true},
	} {
		if got := c.target.String(); got != c.text {
			t.Errorf("%q is written %q", c.text, got)
		}
		if got := c.target.met(r); got != c.met {
			t.Errorf("%s met: %t, want %t", c.text, got, c.met)
		}
	}
}

func TestWhatIsNotKnownIsNotMet(t *testing.T) {
	unknown := row{ours: math.NaN(), ratio: math.NaN(), toBare: math.NaN()}
	for _, than := range []yardstick{thanTheirs, thanBare, atMost, moreThan} {
		if (target{than: than, bound: 1}).met(unknown) {
			t.Errorf("a target of yardstick %d is met by nothing", than)
		}
	}
}

func TestMissed(t *testing.T) {
	outcomes := []outcome{found(0, ours, 100, 1), found(0, theirs, 50, 1)}
	good, bad := target{"live", "rate", "badger", thanTheirs, 2}, target{"live", "latency", "badger", thanTheirs, 2}
	elsewhere := target{"live", "latency", "pebble", thanTheirs, 2}
	if err := missed(tabulate(outcomes, []target{good, elsewhere})); err != nil {
		t.Errorf("nothing is missed, but: %v", err)
	}
	err := missed(tabulate(outcomes, []target{good, bad}))
	if err == nil || err.Error() != "target missed: live on badger, latency: ≥ 2×" {
		t.Errorf("missed: %v", err)
	}
}

func TestTable(t *testing.T) {
	both := []target{{"live", "rate", "badger", thanTheirs, 2}, {"live", "rate", "badger", thanBare, 0.5}}
	outcomes := []outcome{found(0, bare, 400000, 1), found(0, ours, 123456, 0.01234), found(0, theirs, 1000, 1)}
	markdown := onlyTable(t, outcomes, both...).render(true)
	line := "| live | rate | keys/s | 123,456 | 1,000 | 123 | 400,000 | 0.309 | ≥ 2×, ≥ 0.5× bare | yes, no |"
	if !strings.Contains(markdown, line) {
		t.Errorf("%s\nis missing in\n%s", line, markdown)
	}
}
