package crdt

import (
	"context"
	"fmt"
	"slices"
	"sync"

	ds "github.com/ipfs/go-datastore"
)

// changes is an ordered set of writes in which the last write of a key wins.
type changes struct {
	list  []*change
	byKey map[string]*change // of list; nil while that is short
	size  int                // in bytes, as elementSize and tombstoneSize count
}

// fewChanges are looked through faster than a map.
const fewChanges = 8

// A change is what happens to one key: first, if remove is set, the versions
// that are there are removed, and then, if put is set, a value is added.
type change struct {
	key         string
	value       []byte
	remove, put bool
}

func (c *change) size() int {
	size := 0
	if c.remove {
		size += tombstoneSize(c.key)
	}
	if c.put {
		size += elementSize(c.key, c.value)
	}
	return size
}

func (c *changes) put(key string, value []byte) {
	c.update(key, func(ch *change) { ch.put, ch.value = true, value })
}

func (c *changes) delete(key string) {
	c.update(key, func(ch *change) { ch.remove, ch.put, ch.value = true, false, nil })
}

func (c *changes) update(key string, f func(*change)) {
	ch := c.find(key)
	if ch == nil {
		ch = &change{key: key}
		c.append(ch)
	}
	c.size -= ch.size()
	f(ch)
	c.size += ch.size()
}

func (c *changes) find(key string) *change {
	if c.byKey != nil {
		return c.byKey[key]
	}
	for _, ch := range c.list {
		if ch.key == key {
			return ch
		}
	}
	return nil
}

func (c *changes) append(ch *change) {
	c.list = append(c.list, ch)
	if len(c.list) == fewChanges {
		c.byKey = make(map[string]*change)
		for _, ch := range c.list {
			c.byKey[ch.key] = ch
		}
	}
	if c.byKey != nil {
		c.byKey[ch.key] = ch
	}
}

func (c *changes) keys() []string {
	keys := make([]string, len(c.list))
	for i, ch := range c.list {
		keys[i] = ch.key
	}
	return keys
}

// addLater adds later changes.
func (c *changes) addLater(later *changes) {
	for _, ch := range later.list {
		if ch.remove {
			c.delete(ch.key)
		}
		if ch.put {
			c.put(ch.key, ch.value)
		}
	}
}

// fit reports a change that is too large for a block with such an element budget.
func (c *changes) fit(budget int) error {
	if c.size <= budget {
		return nil
	}
	for _, ch := range c.list {
		if err := ch.fit(budget); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) fit(budget int) error {
	if size := c.size(); size > budget {
		return fmt.Errorf("%w: %s needs %d bytes, and Options.MaxBlockSize leaves %d", ErrTooLarge, c.key, size, budget)
	}
	return nil
}

// batch collects writes in memory until Commit. The mutex is not held while they
// are committed: hooks may use the batch.
type batch struct {
	store *Datastore

	mu      sync.Mutex
	changes *changes
}

var _ ds.Batch = (*batch)(nil)

func (b *batch) Put(ctx context.Context, key ds.Key, value []byte) error {
	name, err := b.store.cleanKey(key)
	if err != nil {
		return err
	}
	if err := b.store.checkPut(name, value); err != nil {
		return err
	}
	value = slices.Clone(value)
	return b.change(ctx, func(c *changes) { c.put(name, value) })
}

func (b *batch) Delete(ctx context.Context, key ds.Key) error {
	name, err := b.store.cleanKey(key)
	if err != nil {
		return err
	}
	return b.change(ctx, func(c *changes) { c.delete(name) })
}

// change makes a change, and commits the batch if it outgrows its limit by that.
func (b *batch) change(ctx context.Context, f func(*changes)) error {
	b.mu.Lock()
	f(b.changes)
	large := b.changes.size > b.store.opts.MaxBatchDeltaSize
	b.mu.Unlock()
	if large {
		return b.Commit(ctx)
	}
	return nil
}

// Commit publishes what is in the batch as one delta. Afterwards the batch is
// empty and may be used again; after an error it is as it was. Commits that run
// at once do not wait for each other: each is about what was put in since the
// other took the rest, and either may come first.
func (b *batch) Commit(ctx context.Context) error {
	taken := b.take()
	err := b.store.write(ctx, taken)
	if err != nil {
		b.putBack(taken)
	}
	return err
}

func (b *batch) take() *changes {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.changes
	b.changes = &changes{}
	return taken
}

// putBack puts what was not committed below what has come since.
func (b *batch) putBack(taken *changes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken.addLater(b.changes)
	b.changes = taken
}
