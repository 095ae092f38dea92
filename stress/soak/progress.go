package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
)

const progressEvery = 10 * time.Second

// showProgress tells now and then how things are, until the function that it returns is
// called.
func (c *controller) showProgress() (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.tellProgress()
			case <-end:
				return
			}
		}
	})
	return func() { close(end); done.Wait() }
}

func (c *controller) tellProgress() {
	looks := c.lookAtAll()
	c.tell("%s left, %s; %s", max(c.left(), 0).Round(time.Second), c.tally(), strings.Join(span(looks), ", "))
	if c.cfg.verbose {
		for _, l := range looks {
			c.tell("  %s", l)
		}
	}
}

// tally says what was done so far.
func (c *controller) tally() string {
	changes, keys := c.written()
	return fmt.Sprintf("%s keys in %s writes acknowledged, %d kills, %d leaves, %d freezes, %d cuts, %d rejoins, %d wipes",
		humanize.Comma(keys), humanize.Comma(changes), c.counts.get(kills), c.counts.get(leaves), c.counts.get(freezes),
		c.counts.get(cuts), c.counts.get(rejoins), c.counts.get(wipes))
}

func (c *controller) written() (changes, keys int64) {
	for _, s := range c.slots {
		changes += s.wrote.Load()
		keys += s.keys.Load()
	}
	return changes, keys
}

// look is what is seen of a replica in passing.
type look struct {
	n int
	State
	procUsage
}

func (l look) String() string {
	return fmt.Sprintf("replica %d: height %d, %d heads, %d blocks missing, RSS %s, heap %s, %d goroutines, %d handles, %d of the store",
		l.n, l.Height, len(l.Heads), l.Missing, humanize.IBytes(l.rss), humanize.IBytes(l.Heap), l.Goroutines, l.handles, l.storeFiles)
}

// lookAtAll skips the replicas that go down meanwhile.
func (c *controller) lookAtAll() (looks []look) {
	for _, s := range c.reachable() {
		p := s.life.Load()
		if p == nil {
			continue
		}
		l := look{n: s.n, procUsage: lookAt(p.cmd.Process.Pid, storeDir(s.dir))}
		if err := p.call("Look", None{}, &l.State); err == nil {
			looks = append(looks, l)
		}
	}
	return looks
}

// span sums the looks up: from the least to the most.
func span(looks []look) []string {
	if len(looks) == 0 {
		return []string{"nobody is up"}
	}
	between := func(of func(look) uint64, show func(uint64) string) string {
		var all []uint64
		for _, l := range looks {
			all = append(all, of(l))
		}
		return show(slices.Min(all)) + "–" + show(slices.Max(all))
	}
	number := func(n uint64) string { return humanize.Comma(int64(n)) }
	return []string{
		fmt.Sprintf("%d up", len(looks)),
		"height " + between(func(l look) uint64 { return l.Height }, number),
		"missing " + between(func(l look) uint64 { return uint64(l.Missing) }, number),
		"RSS " + between(func(l look) uint64 { return l.rss }, humanize.IBytes),
		"heap " + between(func(l look) uint64 { return l.Heap }, humanize.IBytes),
		"goroutines " + between(func(l look) uint64 { return uint64(l.Goroutines) }, number),
		"handles " + between(func(l look) uint64 { return uint64(l.handles + l.storeFiles) }, number),
	}
}

// tellCalm says what a calm point showed.
func (c *controller) tellCalm(p calmPoint) {
	joined := ""
	if p.joined {
		joined = " (with a new replica)"
	}
	c.tell("calm point %d: equal after %v%s: %s blocks, %d heads, %s pairs", len(c.calms), p.took.Round(time.Millisecond),
		joined, humanize.Comma(int64(p.blocks)), len(p.heads), humanize.Comma(int64(p.pairs)))
	for n, s := range p.samples {
		c.tell("  replica %d: RSS %s, anonymous %s, heap %s + %s of Badger, package crdt %s, %d goroutines, %d handles, %d of the store, %d blocks merged, %d rows of %s",
			n, humanize.IBytes(s.rss), humanize.IBytes(s.anon), humanize.IBytes(s.Heap), humanize.IBytes(s.Badger),
			humanize.IBytes(s.Crdt), s.Goroutines, s.handles, s.storeFiles, s.Blocks, s.Rows, humanize.IBytes(s.Stored))
	}
}
