package main

import (
	"fmt"
	"net/rpc"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// slot is one of the replicas, through all its lives. Its fields are the controller's,
// but for those that say otherwise.
type slot struct {
	n       int
	dir     string
	log     *os.File
	writers []*writer

	life    atomic.Pointer[process] // nil while it is down; read by the progress too
	frozen  atomic.Bool             // read by the progress too
	running sync.WaitGroup          // the goroutines of the life
	kills   int
	joining []string     // the heads that it has to get before it is whole again
	whole   atomic.Bool  // it may write its own keys; read by its writers
	wrote   atomic.Int64 // changes that were acknowledged
	keys    atomic.Int64 // and how many keys they were about
}

func newSlot(cfg config, n int) (*slot, error) {
	s := &slot{n: n, dir: filepath.Join(cfg.dir, fmt.Sprintf("replica-%d", n))}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	for w := range writersEach {
		s.writers = append(s.writers, newWriter(cfg, n, w))
	}
	var err error
	s.log, err = os.Create(s.dir + ".log")
	return s, err
}

func (s *slot) up() bool { return s.life.Load() != nil }

// start begins a new life. A replica that has kept its store must show at once what it
// acknowledged before; one with an empty store when it has got the history.
func (c *controller) start(s *slot) error {
	p, err := spawn(s.dir, c.cfg.replicaArgs(), s.log)
	if err != nil {
		return fmt.Errorf("replica %d: %w", s.n, err)
	}
	if s.joining == nil {
		if err := s.settle(p); err != nil {
			p.kill()
			return fmt.Errorf("replica %d, after it was opened: %w", s.n, err)
		}
	}
	s.life.Store(p)
	s.running.Go(func() { c.guard(s, p) })
	for _, w := range s.writers {
		s.running.Go(func() { c.write(s, p, w) })
	}
	return nil
}

// settle compares the own keys of all writers with the ledgers.
func (s *slot) settle(p *process) error {
	for _, w := range s.writers {
		held, err := pairsOf(p, w.ledger.prefix)
		if err != nil {
			return err
		}
		if err := w.ledger.settle(held); err != nil {
			return err
		}
	}
	s.whole.Store(true)
	return nil
}

func pairsOf(p *process, prefix string) (map[string]string, error) {
	var list []Pair
	if err := p.call("Pairs", prefix, &list); err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(list))
	for _, pair := range list {
		pairs[pair.Key] = pair.Value
	}
	return pairs, nil
}

// guard fails the run when the process ends by itself.
func (c *controller) guard(s *slot, p *process) {
	<-p.ended
	if !p.ending.Load() {
		c.fail(fmt.Errorf("replica %d ended by itself: %v; its log says why", s.n, p.err))
	}
}

// write writes until the process has ended.
func (c *controller) write(s *slot, p *process, w *writer) {
	for c.ctx.Err() == nil {
		keys, err := c.change(s, p, w)
		if err != nil {
			if c.ctx.Err() == nil && (!gone(err) || !p.ending.Load()) {
				c.fail(fmt.Errorf("replica %d did not write: %w", s.n, err))
			}
			return
		}
		select {
		case <-time.After(pause(keys, c.cfg.rate)):
		case <-p.ended:
			return
		case <-c.ctx.Done():
			return
		}
	}
}

// change writes once, unless everybody rests.
func (c *controller) change(s *slot, p *process, w *writer) (keys int, err error) {
	if err := c.awaitWork(p); err != nil {
		return 0, err
	}
	defer c.rest.RUnlock()
	change := w.next(s.whole.Load())
	w.ledger.begin(change)
	if err := p.call("Apply", change, new(None)); err != nil {
		return 0, err
	}
	w.ledger.acknowledge()
	s.wrote.Add(1)
	s.keys.Add(int64(change.len()))
	return change.len(), nil
}

// awaitWork takes a share of the rest's lock, as soon as nobody rests.
func (c *controller) awaitWork(p *process) error {
	for !c.rest.TryRLock() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-p.ended:
			return rpc.ErrShutdown
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
	return nil
}

// end takes note that the life is over.
func (s *slot) end() {
	s.life.Store(nil)
	s.running.Wait()
}

func (s *slot) kill() {
	s.frozen.Store(false)
	s.life.Load().kill()
	s.end()
}

func (s *slot) leave() error {
	err := s.life.Load().leave()
	s.end()
	if err != nil {
		return fmt.Errorf("replica %d, while it closed: %w", s.n, err)
	}
	return nil
}

// wipe takes the store of a replica that is down, and its identity too if it is to come
// back as somebody else. It has to get the history below heads.
func (s *slot) wipe(heads []string, identity bool) error {
	s.joining = heads
	s.whole.Store(false)
	if identity {
		if err := os.Remove(keyFile(s.dir)); err != nil {
			return err
		}
	}
	return os.RemoveAll(storeDir(s.dir))
}

// join looks whether a replica that began with an empty store has got all there was.
func (s *slot) join() error {
	p := s.life.Load()
	if s.joining == nil || p == nil || s.frozen.Load() {
		return nil
	}
	var complete bool
	if err := p.call("Complete", s.joining, &complete); err != nil || !complete {
		return err
	}
	s.joining = nil
	if err := s.settle(p); err != nil {
		return fmt.Errorf("replica %d, after it got the history: %w", s.n, err)
	}
	return nil
}
