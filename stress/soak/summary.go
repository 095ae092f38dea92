package main

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// summarize prints what the run came to, whether it was cut short or not.
func (c *controller) summarize() {
	if len(c.calms) == 0 {
		return
	}
	last := c.calms[len(c.calms)-1]
	fmt.Fprintf(c.out, "\n%v, seed %d: %s.\n", c.elapsed().Round(time.Second), c.cfg.seed, c.tally())
	fmt.Fprintf(c.out, "At the last calm point %s blocks and %s pairs. Kills of each replica: %v.\n",
		humanize.Comma(int64(last.blocks)), humanize.Comma(int64(last.pairs)), c.killsOfEach())
	c.summarizeCalms()
	c.summarizeFlat()
}

func (c *controller) killsOfEach() (kills []int) {
	for _, s := range c.slots {
		kills = append(kills, s.kills)
	}
	return kills
}

func (c *controller) summarizeCalms() {
	var all, joins []time.Duration
	for _, p := range c.calms {
		if p.joined {
			joins = append(joins, p.took)
		} else {
			all = append(all, p.took)
		}
	}
	fmt.Fprintf(c.out, "%d calm points, equal each time. Time until equal: %s; while a new replica was getting the history: %s.\n",
		len(c.calms), times(all), times(joins))
}

func times(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	return fmt.Sprintf("median %v, worst %v of %d", took[len(took)/2].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond), len(took))
}

// summarizeFlat prints the medians that checkFlat compares.
func (c *controller) summarizeFlat() {
	all := c.allSeries()
	if len(all) == 0 {
		fmt.Fprintf(c.out, "Too few calm points to say whether memory and handles are flat: that takes %d.\n", leastSamples)
		return
	}
	fmt.Fprintf(c.out, "\nMedians of the first third of the calm points → of the last third:\n\n")
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\tlives\tsamples")
	for _, q := range c.quantities() {
		fmt.Fprintf(table, "\t%s", q.name)
	}
	fmt.Fprintln(table)
	for _, s := range all {
		fmt.Fprintf(table, "%s\t%d\t%d", s.name, s.lives(), len(s.samples))
		for _, q := range c.quantities() {
			first, last := q.trend(s)
			fmt.Fprintf(table, "\t%s → %s", q.show(first), q.show(last))
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // to the terminal
}
