package main

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// A speed says how fast a phase went at its start and at its end.
type speed struct {
	span        int     // how many keys count as the start, and as the end
	first, last float64 // keys/s
	mean        float64
	took        time.Duration
}

// million is how many keys are compared with how many, if there are two of
// them. Else it is one half with the other.
const million = 1_000_000

func speedOf(rows []row, phase string) speed {
	rows = append([]row{{}}, ofPhase(rows, phase)...) // it starts with nothing
	end := rows[len(rows)-1]
	s := speed{span: min(million, end.keys/2), mean: rate(rows[0], end), took: time.Duration(end.seconds * float64(time.Second))}
	head, tail := 0, len(rows)-1
	for rows[head].keys < s.span {
		head++
	}
	for rows[tail].keys > end.keys-s.span {
		tail--
	}
	s.first, s.last = rate(rows[0], rows[head]), rate(rows[tail], end)
	return s
}

func rate(from, to row) float64 {
	if to.seconds == from.seconds {
		return 0
	}
	return float64(to.keys-from.keys) / (to.seconds - from.seconds)
}

// ratio is 1 when the end was as fast as the start.
func (s speed) ratio() float64 {
	if s.first == 0 {
		return 0
	}
	return s.last / s.first
}

func (s speed) String() string {
	n := func(keys float64) string { return humanize.Comma(int64(keys)) }
	return fmt.Sprintf("%s, %s keys/s; of the first %s: %s, of the last: %s, ratio %.2f",
		round(s.took), n(s.mean), n(float64(s.span)), n(s.first), n(s.last), s.ratio())
}

// finding says whether the phase kept its speed.
func (s speed) finding(name string) finding {
	if s == (speed{}) {
		return finding{name: name, is: "kept from an earlier run"}
	}
	return finding{name: name, is: s.String(), target: fmt.Sprintf("ratio at least %.2f", minRatio), missed: s.ratio() < minRatio}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
