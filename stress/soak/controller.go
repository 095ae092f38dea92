package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// controller runs the replicas. Its fields belong to one goroutine, but for
// what the writers, the guards and the progress read: those have locks of their own, or do not
// change.
type controller struct {
	cfg    config
	out    *lockedWriter
	ctx    context.Context
	fail   context.CancelCauseFunc
	random *rand.Rand
	begun  time.Time

	slots  []*slot
	cut    [][]bool // which replicas are out of each other's reach
	agenda agenda
	rest   sync.RWMutex // held while nobody is to write
	counts counts
	calms  []calmPoint
}

// counts are the faults so far.
type counts struct {
	mu sync.Mutex
	by map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[what]++
}

func (c *counts) get(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[what]
}

var errInterrupted = errors.New("interrupted")

// soak does a whole run. The replicas are gone when it returns.
func soak(ctx context.Context, cfg config, out io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c := &controller{
		cfg: cfg, out: &lockedWriter{to: out}, ctx: ctx, fail: fail, begun: time.Now(),
		random: rand.New(rand.NewPCG(cfg.seed, 0)),
		counts: counts{by: make(map[string]int)},
	}
	fmt.Fprintf(out, "%d replicas for %v, seed %d, in %s\n", cfg.replicas, cfg.length, cfg.seed, cfg.dir)
	defer c.end()
	err := c.run()
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return errInterrupted
	} else if cause != nil {
		return cause
	}
	return err
}

func (c *controller) run() error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.summarize()
	stop := c.showProgress()
	defer stop()
	for c.left() > 0 {
		if err := c.disturb(min(c.cfg.calm, c.left())); err != nil {
			return err
		}
		if err := c.comeToRest(); err != nil {
			return err
		}
	}
	return errors.Join(c.leaveAll(), c.checkFlat())
}

func (c *controller) elapsed() time.Duration { return time.Since(c.begun) }
func (c *controller) left() time.Duration    { return c.cfg.length - c.elapsed() }

func (c *controller) open() error {
	c.cut = noCut(c.cfg.replicas)
	for n := range c.cfg.replicas {
		s, err := newSlot(c.cfg, n)
		if err != nil {
			return err
		}
		c.slots = append(c.slots, s)
		if err := c.start(s); err != nil {
			return err
		}
	}
	return c.tellLinks()
}

// tellLinks tells every replica where the others are.
func (c *controller) tellLinks() error {
	for _, s := range c.reachable() {
		var links []Link
		for _, other := range c.slots {
			if p := other.life.Load(); p != nil && other != s {
				links = append(links, Link{Addr: p.addr, Cut: c.cut[s.n][other.n]})
			}
		}
		if err := s.life.Load().call("SetLinks", links, new(None)); err != nil {
			return fmt.Errorf("replica %d, told of the others: %w", s.n, err)
		}
	}
	return nil
}

// reachable are the replicas that can be called.
func (c *controller) reachable() (up []*slot) {
	for _, s := range c.slots {
		if s.up() && !s.frozen.Load() {
			up = append(up, s)
		}
	}
	return up
}

func (c *controller) leaveAll() error {
	errs := make([]error, len(c.slots))
	for i, s := range c.slots {
		errs[i] = s.leave()
	}
	return errors.Join(errs...)
}

// end kills what still runs.
func (c *controller) end() {
	c.fail(nil)
	for _, s := range c.slots {
		if s.up() {
			s.kill()
		}
		_ = s.log.Close() // the replicas wrote to it
	}
}

func (c *controller) tell(format string, args ...any) {
	fmt.Fprintf(c.out, "%8s  %s\n", c.elapsed().Round(time.Second), fmt.Sprintf(format, args...))
}

// lockedWriter lets the progress write beside the controller.
type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
