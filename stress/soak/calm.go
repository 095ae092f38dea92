package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// calmPoint is what was seen when everybody rested.
type calmPoint struct {
	at      time.Duration // since the start
	took    time.Duration // from the end of all faults and writes until all were equal
	joined  bool          // a replica had to get the history meanwhile
	blocks  int
	pairs   int
	heads   []string
	samples []sample // one a replica
}

// sample is what a replica took at a calm point.
type sample struct {
	life *process
	Usage
	procUsage
	files int // in the directory of the store
}

// comeToRest ends all faults and writes, waits until all replicas are equal, and looks
// at them. One may lose its store before the others write again.
func (c *controller) comeToRest() error {
	if err := c.agenda.clear(); err != nil {
		return err
	}
	c.rest.Lock()
	defer c.rest.Unlock()
	point, err := c.lookCalmly()
	if err != nil {
		return err
	}
	c.calms = append(c.calms, point)
	c.tellCalm(point)
	return c.maybeWipe(point)
}

func (c *controller) lookCalmly() (p calmPoint, err error) {
	p.joined = slices.ContainsFunc(c.slots, func(s *slot) bool { return s.joining != nil })
	begun := time.Now()
	if p.heads, err = c.awaitEqualHeads(); err != nil {
		return p, err
	}
	p.at, p.took = c.elapsed(), time.Since(begun)
	if err := c.joinAll(); err != nil {
		return p, err
	}
	if p.pairs, err = c.comparePairs(); err != nil {
		return p, err
	}
	for _, s := range c.slots {
		sample, err := c.measure(s)
		if err != nil {
			return p, fmt.Errorf("replica %d, measured: %w", s.n, err)
		}
		p.samples = append(p.samples, sample)
	}
	p.blocks = p.samples[0].Blocks
	return p, c.checkCalm(p)
}

// awaitEqualHeads waits until all replicas have the same heads and miss nothing: they
// have merged the same blocks then.
func (c *controller) awaitEqualHeads() ([]string, error) {
	for limit := time.Now().Add(c.cfg.settle); ; {
		states, err := c.states()
		if err != nil {
			return nil, err
		}
		if equalHeads(states) {
			return states[0].Heads, nil
		}
		if time.Now().After(limit) {
			c.dumpAll()
			return nil, fmt.Errorf("not equal after %v of rest; the logs have the goroutines: %s", c.cfg.settle, describe(states))
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

func (c *controller) states() ([]State, error) {
	states := make([]State, len(c.slots))
	for i, s := range c.slots {
		if err := s.life.Load().call("Look", None{}, &states[i]); err != nil {
			return nil, fmt.Errorf("replica %d, asked for its state: %w", s.n, err)
		}
	}
	return states, nil
}

func equalHeads(states []State) bool {
	for _, s := range states {
		if s.Missing > 0 || !slices.Equal(s.Heads, states[0].Heads) {
			return false
		}
	}
	return true
}

func describe(states []State) (text string) {
	for i, s := range states {
		text += fmt.Sprintf("\nreplica %d is at height %d and misses %d known blocks; heads %v", i, s.Height, s.Missing, s.Heads)
	}
	return text
}

func (c *controller) dumpAll() {
	for _, s := range c.reachable() {
		_ = s.life.Load().dump() // it fails only when the process is gone
	}
}

// comparePairs checks that all replicas hold the same pairs, each with a value written to
// its key, and what was acknowledged.
func (c *controller) comparePairs() (n int, err error) {
	var first map[string]string
	for _, s := range c.slots {
		pairs, err := pairsOf(s.life.Load(), "")
		if err != nil {
			return 0, fmt.Errorf("replica %d, asked for its pairs: %w", s.n, err)
		}
		if first == nil {
			first = pairs
		} else if !maps.Equal(pairs, first) {
			return 0, fmt.Errorf("replica %d holds other pairs than replica 0, with the same heads: %s", s.n, difference(pairs, first))
		}
	}
	if err := misplaced(first); err != nil {
		return 0, err
	}
	return len(first), c.checkLedgers(first)
}

func (c *controller) checkLedgers(pairs map[string]string) error {
	for _, s := range c.slots {
		for _, w := range s.writers {
			if err := w.ledger.settle(below(w.ledger.prefix, pairs)); err != nil {
				return fmt.Errorf("all replicas are equal, but %w", err)
			}
		}
	}
	return nil
}

func (c *controller) measure(s *slot) (m sample, err error) {
	m.life = s.life.Load()
	profile := filepath.Join(c.cfg.dir, fmt.Sprintf("replica-%d-calm-%02d.heap.pprof", s.n, len(c.calms)+1))
	if err := m.life.call("Measure", profile, &m.Usage); err != nil {
		return m, err
	}
	m.procUsage = lookAt(m.life.cmd.Process.Pid, storeDir(s.dir))
	m.files = filesIn(storeDir(s.dir))
	return m, nil
}

// checkCalm checks what must be so at every calm point. A store's files are opened once
// each; what is open twice adds up.
func (c *controller) checkCalm(p calmPoint) error {
	for i, m := range p.samples {
		if m.Blocks != p.blocks && c.cfg.checkpointEvery == 0 {
			return fmt.Errorf("replica %d has merged %d blocks, replica 0 %d, with the same heads", i, m.Blocks, p.blocks)
		}
		if m.storeFiles > m.files+8 {
			return fmt.Errorf("replica %d has its store's files open %d times, but there are %d of them", i, m.storeFiles, m.files)
		}
	}
	return nil
}
