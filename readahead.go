package crdt

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Most of the time of a large commit goes into reading the records of the keys that it
// touches. Stores are faster when they are asked in order and from several goroutines, and
// local writes should not wait meanwhile: so the records for what peers have written are read
// before the turn is taken. Those that other commits have written since are read again.

// fewKeys are not worth being read ahead.
const fewKeys = 128

// A readAhead is records for a commit that is still to come. But for keys it belongs to the
// holder of the turn.
type readAhead struct {
	keys    map[string]*keyChange // as when they were read
	written []string              // keys whose records have been written since before that
	spoilt  bool                  // others may have been
}

// readAhead reads the records of keys. It returns nil if there are few.
func (c *committer) readAhead(ctx context.Context, keys []string) (*readAhead, error) {
	if len(keys) < c.most(fewKeys) {
		return nil, nil
	}
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	a, bound := &readAhead{}, c.bound
	setIn(&c.ahead, a, true)
	c.release()
	var err error
	if a.keys, err = c.store.loadKeys(ctx, bound, keys); err != nil && c.acquire(ctx) == nil {
		delete(c.ahead, a)
		c.release()
	}
	return a, err
}

// use gives a commit what was read ahead for it and is still as it was. a may be nil.
func (c *commit) use(a *readAhead) {
	if a == nil {
		return
	}
	delete(c.committer.ahead, a)
	if !a.spoilt {
		for _, key := range a.written {
			delete(a.keys, key)
		}
		c.set.ahead = a.keys
	}
	if invariants {
		c.checkAhead()
	}
	a.keys = nil // the commit changes it
}

// outdateInTurn notes that rows are being written.
func (c *committer) outdateInTurn(rows []row) {
	for a := range c.ahead {
		for _, r := range rows {
			if key, ok := strings.CutPrefix(r.key.String(), c.store.keys.records); ok {
				a.written = append(a.written, key)
			}
		}
	}
}

// spoilInTurn notes that the store may hold anything.
func (c *committer) spoilInTurn() {
	for a := range c.ahead {
		a.spoilt = true
	}
}

// loadAhead loads the records of keys that a commit is going to touch, in the turn.
func (c *setChange) loadAhead(ctx context.Context, keys []string) (err error) {
	if len(keys) >= fewKeys {
		c.ahead, err = c.store.loadKeys(ctx, c.bound, keys)
	}
	return err
}

// loadKeys reads the records of keys, which it sorts.
func (s *rowStore) loadKeys(ctx context.Context, bound keyBound, keys []string) (map[string]*keyChange, error) {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	loaded := make([]*keyChange, len(keys))
	step := len(keys)/(2*runtime.GOMAXPROCS(0)) + 1
	var group errgroup.Group
	for from := 0; from < len(keys); from += step {
		group.Go(func() (err error) {
			for i := from; i < min(from+step, len(keys)) && err == nil; i++ {
				loaded[i], err = s.loadUnless(ctx, bound, keys[i])
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := make(map[string]*keyChange, len(keys))
	for _, k := range loaded {
		all[k.key] = k
	}
	return all, nil
}
