package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// A row is what came of a run.
type row struct {
	plan
	writes, blocks      int
	p50, p99, worst     time.Duration // of propagation
	fast99              time.Duration // likewise p99, if neither replica is behind a slow link
	late99              time.Duration // p99 of what was written in the last quarter
	published           float64       // announcements of all for each write
	parcels, bytes      float64       // for each write and replica
	posts, gossip, dags float64       // bytes of the parts of these
	repeated            float64       // repeats of each post at a replica
	dropped             float64       // part of the parcels that found too much waiting
	asked               float64       // part of the merged blocks that had to be asked for
	heads               float64       // before a Put, mean
	lateHeads           float64       // likewise, of the last quarter
	maxHeads            int
	links, blockBytes   float64       // of a block
	cpu                 time.Duration // for each block that is merged
	settled             time.Duration // after the last write
	repeats             float64       // announcements of all in an interval without writes
}

func (m *meter) row() row {
	t := m.traffic()
	blocks, links, bytes := m.net.pool.weigh()
	r := row{plan: m.plan, writes: len(m.log.writes), blocks: blocks}
	each := float64(r.writes * r.replicas)
	merged := float64(blocks * (r.replicas - 1))
	r.published = float64(t.published) / float64(r.writes)
	r.parcels, r.bytes = float64(t.parcels)/each, float64(t.bytes)/each
	r.posts, r.gossip, r.dags = float64(t.postBytes)/each, float64(t.gossipBytes)/each, float64(t.blockBytes)/each
	r.repeated = float64(t.repeats) / float64(t.copies)
	r.dropped = float64(t.dropped) / float64(t.parcels)
	r.asked = float64(t.wanted) / merged
	r.links, r.blockBytes = float64(links)/float64(blocks), float64(bytes)/float64(blocks)
	r.cpu = time.Duration(float64(m.replicasTime()) / merged)
	m.countHeads(&r)
	m.measureDelays(&r)
	return r
}

func (f *fleet) countHeads(r *row) {
	last := f.log.writes[len(f.log.writes)*3/4:]
	for _, w := range f.log.writes {
		r.heads += float64(w.heads) / float64(len(f.log.writes))
		r.maxHeads = max(r.maxHeads, w.heads)
	}
	for _, w := range last {
		r.lateHeads += float64(w.heads) / float64(len(last))
	}
}

func (f *fleet) measureDelays(r *row) {
	all := f.log.delays(func(*write, int) bool { return true })
	r.p50, r.p99, r.worst = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 1)
	fast := f.log.delays(func(w *write, to int) bool { return !f.net.peers[w.by].slow && !f.net.peers[to].slow })
	r.fast99 = quantile(fast, 0.99)
	late := f.log.delays(func(w *write, _ int) bool { return w.after > f.span*3/4 })
	r.late99 = quantile(late, 0.99)
}

// A figure is a column of a table, and a panel of the plot.
type figure struct {
	name string
	of   func(row) float64
}

// tables are the columns, beside those that say which run it is.
var tables = [][]figure{{
	{"writes", func(r row) float64 { return float64(r.writes) }},
	{"p50, ms", func(r row) float64 { return ms(r.p50) }},
	{"p99, ms", func(r row) float64 { return ms(r.p99) }},
	{"p99 of fast links, ms", func(r row) float64 { return ms(r.fast99) }},
	{"p99 of the last quarter, ms", func(r row) float64 { return ms(r.late99) }},
	{"slowest, ms", func(r row) float64 { return ms(r.worst) }},
	{"all the same after, s", func(r row) float64 { return r.settled.Seconds() }},
	{"CPU of a merge, µs", func(r row) float64 { return float64(r.cpu) / 1000 }},
}, {
	{"heads", func(r row) float64 { return r.heads }},
	{"of the last quarter", func(r row) float64 { return r.lateHeads }},
	{"heads at most", func(r row) float64 { return float64(r.maxHeads) }},
	{"links of a block", func(r row) float64 { return r.links }},
	{"bytes of a block", func(r row) float64 { return r.blockBytes }},
	{"blocks asked for, %", func(r row) float64 { return 100 * r.asked }},
	{"announcements for a write", func(r row) float64 { return r.published }},
	{"announcements in a quiet interval", func(r row) float64 { return r.repeats }},
}, {
	{"messages", func(r row) float64 { return r.parcels }},
	{"bytes", func(r row) float64 { return r.bytes }},
	{"of announcements", func(r row) float64 { return r.posts }},
	{"of IHAVE and IWANT", func(r row) float64 { return r.gossip }},
	{"of blocks asked for", func(r row) float64 { return r.dags }},
	{"duplicates of a message", func(r row) float64 { return r.repeated }},
	{"dropped, %", func(r row) float64 { return 100 * r.dropped }},
}}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// String is for those who wait.
func (r row) String() string {
	var parts []string
	for _, f := range tables[0] {
		parts = append(parts, f.name+" "+number(f.of(r)))
	}
	return fmt.Sprintf("%d replicas, %d writes/s for %s: %s", r.replicas, r.rate, r.span, strings.Join(parts, "; "))
}

// printTables prints them as Markdown.
func printTables(out io.Writer, rows []row) {
	for _, figures := range tables {
		line, names := "|---:|---:|", "| Replicas | Writes/s |"
		for _, f := range figures {
			names, line = names+" "+f.name+" |", line+"---:|"
		}
		fmt.Fprintf(out, "%s\n%s\n", names, line)
		for _, r := range rows {
			fmt.Fprintf(out, "| %d | %d |", r.replicas, r.rate)
			for _, f := range figures {
				fmt.Fprintf(out, " %s |", number(f.of(r)))
			}
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out)
	}
}

// number has three digits that count, or all of a whole number.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	if v == math.Trunc(v) {
		digits = 0
	}
	return fmt.Sprintf("%.*f", digits, v)
}
