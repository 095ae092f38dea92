package main

import (
	"context"
	"slices"
	"time"
)

// The faults, as they are counted.
const (
	kills   = "kills"
	leaves  = "leaves"
	freezes = "freezes"
	cuts    = "cuts"
	rejoins = "rejoins"
	wipes   = "wipes"
)

// tickEvery is how often the controller looks what is due.
const tickEvery = 50 * time.Millisecond

// disturb lets faults happen for a while.
func (c *controller) disturb(length time.Duration) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	until, next := time.Now().Add(length), time.Now()
	for time.Now().Before(until) {
		if time.Now().After(next) {
			next = time.Now().Add(c.between(0, 2*c.cfg.faults))
			if err := c.fault(); err != nil {
				return err
			}
		}
		if err := c.doDue(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
	return nil
}

func (c *controller) doDue() error {
	for {
		do, due := c.agenda.next(time.Now())
		if !due {
			return c.joinAll()
		}
		if err := do(); err != nil {
			return err
		}
	}
}

func (c *controller) joinAll() error {
	for _, s := range c.reachable() {
		if err := s.join(); err != nil {
			return err
		}
	}
	return nil
}

func (c *controller) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.random.Int64N(int64(most-least)))
}

// fault does some harm. Its other half, which ends it, goes on the agenda.
func (c *controller) fault() error {
	switch n := c.random.IntN(10); {
	case n < 4:
		return c.killOne()
	case n < 5:
		return c.leaveOne()
	case n < 7:
		return c.freezeOne()
	default:
		return c.cutOff()
	}
}

func (c *controller) killOne() error {
	s := c.victim()
	if s == nil {
		return nil
	}
	c.note(kills, s)
	s.kill()
	c.rejoinLater(s)
	return nil
}

func (c *controller) leaveOne() error {
	s := c.victim()
	if s == nil || s.frozen.Load() {
		return nil
	}
	c.note(leaves, s)
	c.rejoinLater(s)
	return s.leave()
}

// victim picks a replica to go down, one that was never killed first; nil if there is none.
func (c *controller) victim() *slot {
	candidates := slices.DeleteFunc(slices.Clone(c.slots), func(s *slot) bool { return !s.up() || c.spared(s) })
	if fresh := slices.DeleteFunc(slices.Clone(candidates), func(s *slot) bool { return s.kills > 0 }); len(fresh) > 0 {
		candidates = fresh
	}
	return c.pick(candidates)
}

func (c *controller) pick(from []*slot) *slot {
	if len(from) == 0 {
		return nil
	}
	return from[c.random.IntN(len(from))]
}

// spared says whether a replica is not to go down for now: the first one until late in the
// run, and of many replicas the second one from early in the run on. Else none would live long
// enough to show whether it grows.
func (c *controller) spared(s *slot) bool {
	sixth := c.cfg.length / 6
	return s.n == 0 && c.elapsed() < 5*sixth || s.n == 1 && len(c.slots) > 3 && c.elapsed() > sixth
}

func (c *controller) rejoinLater(s *slot) {
	c.agenda.add(c.between(0, 2*c.cfg.away/3), func() error {
		c.note(rejoins, s)
		if err := c.start(s); err != nil {
			return err
		}
		return c.tellLinks()
	})
}

// freezeOne stops a process for a while: its connections stay, but nothing is answered.
func (c *controller) freezeOne() error {
	s := c.pick(c.reachable())
	if s == nil || !canFreeze {
		return nil
	}
	c.note(freezes, s)
	s.frozen.Store(true)
	p := s.life.Load()
	c.agenda.add(c.between(time.Second, 6*time.Second), func() error {
		if s.life.Load() != p {
			return nil
		}
		s.frozen.Store(false)
		if err := thaw(p.cmd.Process); err != nil {
			return err
		}
		return c.tellLinks()
	})
	return freeze(p.cmd.Process)
}

// maybeWipe empties a store after every third calm point but the last, while the history is
// short. All replicas must rest: what this one alone has would be lost.
func (c *controller) maybeWipe(p calmPoint) error {
	if len(c.calms)%3 != 1 || c.left() <= 0 || p.blocks > c.cfg.wipes {
		return nil
	}
	s := c.victim()
	if s == nil {
		return nil
	}
	c.note(wipes, s)
	s.kill()
	c.rejoinLater(s)
	return s.wipe(p.heads, c.random.IntN(2) == 0)
}

// note counts a fault.
func (c *controller) note(what string, s *slot) {
	c.counts.add(what)
	if what == kills {
		s.kills++
	}
	if c.cfg.verbose {
		c.tell("%s: replica %d", what, s.n)
	}
}
