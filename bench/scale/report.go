package main

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
)

// Targets. The heap's is the limit that was set.
const (
	minRatio  = 0.60
	maxReopen = time.Second
)

// A report is what a run found out.
type report struct {
	keys, sampled       int
	limit               uint64
	load, join          speed
	peak                usage
	diskA, diskB        uint64
	storeTook, crdtTook time.Duration // to open the first replica again
}

func (r *report) take(rows []row, peak usage) {
	r.load, r.join, r.peak = speedOf(rows, "load"), speedOf(rows, "join"), peak
}

// A finding is a line of the summary. One without a target is for information.
type finding struct {
	name, is string
	target   string
	missed   bool
}

func (r *report) findings() []finding {
	perKey := func(disk uint64) string { return fmt.Sprintf("%.0f bytes a key", float64(disk)/float64(r.keys)) }
	reopen := r.storeTook + r.crdtTook
	return []finding{
		r.load.finding("load"),
		r.join.finding("join"),
		{name: "peak heap", is: humanize.IBytes(r.peak.heap), target: "at most " + humanize.IBytes(r.limit), missed: r.peak.heap > r.limit},
		{name: "peak RSS", is: fmt.Sprintf("%s, %s without mapped files", humanize.IBytes(r.peak.rss), humanize.IBytes(r.peak.anon))},
		{name: "disk, loaded", is: perKey(r.diskA)},
		{name: "disk, joined", is: perKey(r.diskB)},
		{name: "verified", is: fmt.Sprintf("%s keys counted in each, %s values compared", humanize.Comma(int64(r.keys)), humanize.Comma(int64(r.sampled)))},
		{name: "reopen", is: fmt.Sprintf("%s: store %s, replica %s", ms(reopen), ms(r.storeTook), ms(r.crdtTook)),
			target: "under " + maxReopen.String(), missed: reopen > maxReopen},
	}
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func (r *report) print(out io.Writer) {
	fmt.Fprintln(out)
	for _, f := range r.findings() {
		verdict := ""
		switch {
		case f.missed:
			verdict = "  MISSED: " + f.target
		case f.target != "":
			verdict = "  ok: " + f.target
		}
		fmt.Fprintf(out, "%-13s %s%s\n", f.name, f.is, verdict)
	}
}

// missed returns how many targets were missed.
func (r *report) missed() int {
	n := 0
	for _, f := range r.findings() {
		if f.missed {
			n++
		}
	}
	return n
}
