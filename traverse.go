package crdt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	ipld "github.com/ipfs/go-ipld-format"
)

// A traversal reads the blocks below others, several at a time. Its fields
// belong to the goroutine that runs it.
type traversal struct {
	// What the caller may set:
	stages   map[blockID]stage                            // all that it has come across
	enter    func(context.Context, blockID) (bool, error) // whether a block is to be read; nil: all are
	alone    bool                                         // blocks below are left alone
	gone     bool                                         // also those are to be read, or told of, of which a cover is all that is left
	merged   bool                                         // all are merged, and may break rules
	judged   bool                                         // those that are not known may not be merged
	patience time.Duration                                // how long a block is waited for, if less than it is as a rule; 0: as long

	v0      map[blockID]bool // which are asked for by CIDs of version 0; mostly nil
	todo    []blockID
	running int
}

// A stage says how far a traversal is with a block.
type stage byte

const (
	known stage = 1 << iota // to the caller, who needs no more than its links
	begun                   // it has been read, or will be, or need not be
)

type toRead struct {
	link                  link
	known, merged, judged bool
}

// errSkipBelow is what visit returns to have what a block links to left alone.
var errSkipBelow = errors.New("crdt: nothing below is needed")

// A traversed block is one that was read, or could not be.
type traversed struct {
	id  blockID
	b   *block
	err error
}

// traverse calls visit with each block in from and below, once, and with the
// error where one could not be read. It ends at the first error that visit
// returns, but for errSkipBelow. enter and visit are called by one goroutine. A traversal may go on
// from other blocks once it has ended.
func (s *blockStore) traverse(ctx context.Context, from []blockID, t *traversal, visit func(blockID, *block, error) error) error {
	requests, results, end := s.startReaders(ctx, t)
	defer end()
	if t.stages == nil {
		t.stages = make(map[blockID]stage)
	}
	if err := t.enqueue(ctx, from); err != nil {
		return err
	}
	for t.running+len(t.todo) > 0 {
		for t.running < fetchesPerWorker && len(t.todo) > 0 {
			if next := t.next(); t.gone || !s.isDropped(ctx, from, next.link.id) {
				t.running++
				requests <- next
			}
		}
		if t.running == 0 {
			break
		}
		r := <-results
		t.running--
		if r.err != nil && !t.gone && s.isDropped(ctx, from, r.id) {
			continue
		}
		err := visit(r.id, r.b, r.err)
		if err == nil && r.err == nil && !t.alone {
			err = s.descend(ctx, t, r.b)
		}
		if err != nil && err != errSkipBelow {
			return err
		}
	}
	return ctx.Err()
}

// startReaders has goroutines read the blocks of a traversal. end waits for what they have
// begun.
func (s *blockStore) startReaders(ctx context.Context, t *traversal) (chan<- toRead, <-chan traversed, func()) {
	ctx, cancel := context.WithCancel(ctx)
	getter, endSession, _ := s.session(ctx)
	requests, results := make(chan toRead, fetchesPerWorker), make(chan traversed, fetchesPerWorker)
	var readers sync.WaitGroup
	for range fetchesPerWorker {
		readers.Go(func() { s.readAll(ctx, getter, s.patience(t), requests, results) })
	}
	return requests, results, func() {
		close(requests)
		endSession()
		cancel()
		readers.Wait()
	}
}

// isDropped reports whether a block has been dropped, but for those that a traversal begins
// with: it is nowhere, as a rule, and would be waited for. It may be so before the traversal
// comes across it, or afterwards.
func (s *blockStore) isDropped(ctx context.Context, from []blockID, id blockID) bool {
	gone, err := s.marks.isGone(ctx, id)
	return gone && err == nil && !slices.Contains(from, id)
}

func (s *blockStore) descend(ctx context.Context, t *traversal, b *block) error {
	t.learn(b.v0)
	if t.gone {
		return t.enqueue(ctx, b.links)
	}
	below, err := s.below(ctx, b)
	if err != nil {
		return err
	}
	return t.enqueue(ctx, below)
}

// patience is how long a traversal waits for a block; 0: for ever.
func (s *blockStore) patience(t *traversal) time.Duration {
	if t.patience > 0 && (s.timeout == 0 || t.patience < s.timeout) {
		return t.patience
	}
	return s.timeout
}

func (s *blockStore) readAll(ctx context.Context, from ipld.NodeGetter, patience time.Duration, requests <-chan toRead, results chan<- traversed) {
	limit := requestLimit{parent: ctx, timeout: patience}
	defer limit.end()
	for r := range requests {
		b, err := s.read(&limit, from, r)
		results <- traversed{r.link.id, b, err}
	}
}

func (s *blockStore) read(limit *requestLimit, from ipld.NodeGetter, r toRead) (*block, error) {
	raw, err := fetch(limit.begin(), from, r.link)
	limit.stop()
	if err != nil && limit.hasRunOut() {
		err = fmt.Errorf("crdt: fetching block %s: %w", r.link.Cid(), context.DeadlineExceeded)
	}
	switch {
	case err != nil:
		return nil, err
	case r.known:
		return s.decodeKnown(r.link.id, raw)
	case r.merged:
		return s.decodeMerged(r.link.id, raw)
	case r.judged:
		return s.judge(limit.parent, r.link.id, raw)
	}
	return s.decode(r.link.id, raw)
}

func (t *traversal) enqueue(ctx context.Context, ids []blockID) error {
	for _, id := range ids {
		if t.stages[id]&begun != 0 {
			continue
		}
		if t.enter != nil {
			if ok, err := t.enter(ctx, id); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		t.stages[id] |= begun
		t.todo = append(t.todo, id)
	}
	return nil
}

// learn notes which blocks are to be asked for by CIDs of version 0.
func (t *traversal) learn(v0 map[blockID]bool) {
	for id := range v0 {
		if t.stages[id]&begun != 0 {
			continue // another block has linked to it
		}
		setIn(&t.v0, id, true)
	}
}

// link is how a block is asked for.
func (t *traversal) link(id blockID) link { return link{id, t.v0[id]} }

func (t *traversal) next() toRead {
	id := t.todo[0]
	t.todo = t.todo[1:]
	return toRead{t.link(id), t.stages[id]&known != 0, t.merged, t.judged}
}

// A requestLimit limits requests that one goroutine makes one after the other.
// They share a context until one runs out of time: to make one for each takes
// as long as many a request.
type requestLimit struct {
	parent  context.Context
	timeout time.Duration // 0: none

	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer
}

// begin returns the context of the next request. Call stop after it.
func (l *requestLimit) begin() context.Context {
	switch {
	case l.ctx == nil || l.ctx.Err() != nil:
		l.end()
		l.ctx, l.cancel = context.WithCancel(l.parent)
		if l.timeout > 0 {
			l.timer = time.AfterFunc(l.timeout, l.cancel)
		}
	case l.timer != nil:
		l.timer.Reset(l.timeout)
	}
	return l.ctx
}

// stop ends a request. If its time has run out meanwhile, so has the context's.
func (l *requestLimit) stop() {
	if l.timer != nil && !l.timer.Stop() {
		l.cancel()
	}
}

// hasRunOut reports whether the time of the last request has run out. Its context does not
// say so: that is canceled.
func (l *requestLimit) hasRunOut() bool { return l.ctx.Err() != nil && l.parent.Err() == nil }

func (l *requestLimit) end() {
	if l.ctx != nil {
		l.stop()
		l.cancel()
	}
}
