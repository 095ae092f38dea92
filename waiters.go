package crdt

import (
	"context"
	"fmt"
	"slices"
)

// Waiters are the merged blocks that are pending because of one child, as a commit
// sees them. It reads them in one row and writes that once. A peer can put any number
// of blocks above one, and no row may grow with that, nor be written for each of
// them: those that find no place in it have rows of their own.
type waiters struct {
	few   []blockID        // in the row
	more  bool             // there may be others
	apart map[blockID]bool // the rows of these to put (true) or remove (false)

	stored, changed bool // the row
}

// fewWaiters is how many blocks find a place in one row. To look for others takes a
// query, and where 30 replicas write at the same time that is one for 7,000 merges. With
// 32, a block of 2 MiB that links to what 30 others of the kind do took 1 GiB of memory.
const fewWaiters = 8

func (w *waiters) add(parent blockID) {
	switch {
	case len(w.few) < fewWaiters:
		w.few, w.changed = append(w.few, parent), true
	case !w.more:
		w.more, w.changed = true, true
		fallthrough
	default:
		w.setApart(parent, true)
	}
}

func (w *waiters) remove(parent blockID) {
	if i := slices.Index(w.few, parent); i >= 0 {
		w.few, w.changed = slices.Delete(w.few, i, i+1), true
	} else if w.more {
		w.setApart(parent, false)
	}
}

func (w *waiters) setApart(parent blockID, put bool) {
	setIn(&w.apart, parent, put)
}

func (w *waiters) noMore() { w.more, w.changed = false, w.changed || w.more }

func (w *waiters) empty() bool { return len(w.few) == 0 && !w.more }

// appendRows appends what a commit writes.
func (w *waiters) appendRows(rows []row, keys *keyspace, child blockID) []row {
	if w.changed && (w.stored || !w.empty()) {
		rows = append(rows, row{key: keys.waiters(child), value: w.encode(), remove: w.empty()})
	}
	for parent, put := range w.apart {
		rows = append(rows, presence(keys.wait(child, parent), put))
	}
	return rows
}

// encode writes the value of the row: the digests, then a byte 0 if there may be more.
func (w *waiters) encode() []byte {
	b := encodeIDs(w.few)
	if w.more {
		b = append(b, 0)
	}
	return b
}

func decodeWaiters(b []byte) (*waiters, bool) {
	more := len(b)%len(blockID{}) == 1 && b[len(b)-1] == 0
	if more {
		b = b[:len(b)-1]
	}
	few, ok := decodeIDs(b)
	return &waiters{few: few, more: more, stored: true}, ok
}

// waiters returns the blocks that wait for a child.
func (c *dagChange) waiters(ctx context.Context, child blockID) (*waiters, error) {
	if w := c.waits[child]; w != nil {
		return w, nil
	}
	w := &waiters{}
	b, found, err := c.store.getRow(ctx, c.store.keys.waiters(child))
	if found {
		var ok bool
		if w, ok = decodeWaiters(b); !ok {
			err = errBadMark
		}
	}
	if err != nil {
		return nil, fmt.Errorf("crdt: what waits for block %s: %w", child.Cid(), err)
	}
	c.waits[child] = w
	return w, nil
}

// parents returns the blocks that wait for a child: all, or more than limit.
func (c *dagChange) parents(ctx context.Context, child blockID, limit int) ([]blockID, error) {
	w, err := c.waiters(ctx, child)
	if err != nil {
		return nil, err
	}
	ids := slices.Clone(w.few)
	if !w.more || len(ids) > limit {
		return sortIDs(ids), nil
	}
	for id, put := range w.apart {
		if put {
			ids = append(ids, id)
		}
	}
	for e, err := range c.store.rowsOf(ctx, c.store.keys.waitingOn(child), 1, true) {
		if err != nil {
			return nil, err
		}
		_, id, ok := splitID(e.Key)
		if _, changed := w.apart[id]; ok && !changed {
			ids = append(ids, id)
		}
		if len(ids) > limit {
			return sortIDs(ids), nil
		}
	}
	if len(ids) == 0 {
		w.noMore()
	}
	return sortIDs(ids), nil
}

// foldWaiters gives every block that is waited for a row of waiters, which stores of
// an earlier build lack.
func (s *rowStore) foldWaiters(ctx context.Context) error {
	var last blockID
	for e, err := range s.rowsOf(ctx, s.keys.waiting, 2, true) {
		if err != nil {
			return err
		}
		child, _, _ := splitID(e.Key)
		_, id, ok := splitID(child)
		if !ok || id == last {
			continue
		}
		last = id
		found, err := s.Has(ctx, s.keys.waiters(id))
		if err == nil && !found {
			err = s.Put(ctx, s.keys.waiters(id), (&waiters{more: true}).encode())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
