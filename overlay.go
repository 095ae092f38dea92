package crdt

import (
	"maps"

	ds "github.com/ipfs/go-datastore"
)

// An overlay is what a commit does to a table of blocks that is kept in memory, and in
// the store as a row for each. The table is copied when the first change is made, and
// shared until then.
type overlay[M ~map[blockID]V, V comparable] struct {
	before, now M
	changed     bool
}

func overlayOn[M ~map[blockID]V, V comparable](before M) overlay[M, V] {
	return overlay[M, V]{before: before, now: before}
}

func (c *overlay[M, V]) unshare() {
	if !c.changed {
		c.now, c.changed = maps.Clone(c.before), true
	}
}

func (c *overlay[M, V]) add(id blockID, v V) {
	c.unshare()
	c.now[id] = v
}

func (c *overlay[M, V]) remove(id blockID) {
	if _, ok := c.now[id]; ok {
		c.unshare()
		delete(c.now, id)
	}
}

// rows returns what to write: a row for each entry that came or changed, and the removal
// of each that went, with what key and value make of them.
func (c *overlay[M, V]) rows(key func(blockID, V) ds.Key, value func(V) []byte) []row {
	if !c.changed {
		return nil
	}
	rows := make([]row, 0, 8)
	for id, v := range c.now {
		if old, was := c.before[id]; !was || v != old {
			rows = append(rows, row{key: key(id, v), value: value(v)})
		}
	}
	for id, old := range c.before {
		if _, is := c.now[id]; !is {
			rows = append(rows, row{key: key(id, old), remove: true})
		}
	}
	return rows
}
