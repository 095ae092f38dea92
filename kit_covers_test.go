package crdt

import (
	"maps"
	"slices"
	"strings"
)

// A heldCheck is a checkpoint whose cover counts as marks.
type heldCheck struct {
	*checkpoint
	cover map[coverID]bool
}

// readCovers reads what is known of checkpoints, and checks that the rows of segments are
// those of the checkpoints, and no others.
func (c *storeCheck) readCovers() {
	s := c.r.Datastore.store
	var err error
	c.checkpoints, err = s.loadCheckpoints(ctx)
	c.r.must(err)
	for _, cp := range c.checkpoints {
		for _, seg := range cp.segments {
			c.checkSegment(seg)
		}
		if !cp.state.held() {
			continue
		}
		held := &heldCheck{cp, make(map[coverID]bool)}
		for _, seg := range cp.segments {
			for id, err := range s.segmentRows(ctx, seg) {
				c.r.must(err)
				if held.cover[id] {
					c.t.Errorf("checkpoint %s covers %x twice", cp.id.Cid(), id)
				}
				held.cover[id] = true
			}
		}
		c.held = append(c.held, held)
	}
	c.checkSpare()
}

func (c *storeCheck) checkSegment(seg segment) {
	s := c.r.Datastore.store
	n := uint64(0)
	for range s.segmentRows(ctx, seg) {
		n++
	}
	if whole, err := s.Has(ctx, s.keys.segment(seg.root)); !whole || err != nil || n != seg.ids {
		c.t.Errorf("segment %s has %d of %d ids, is whole: %v, %v", seg.root.Cid(), n, seg.ids, whole, err)
	}
}

// checkSpare checks that all rows of segments are of one that is used, or spare.
func (c *storeCheck) checkSpare() {
	s := c.r.Datastore.store
	spare, err := s.readSpare(ctx)
	c.r.must(err)
	used := c.checkpoints.use()
	for _, e := range c.r.rowsUnder("/w/s") {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, s.keys.segments+"/"), "/")
		root, ok := parseBlockID(name)
		if !ok || !used[root] && !slices.ContainsFunc(spare, func(seg segment) bool { return seg.root == root }) {
			if !strings.Contains(e.Key, "/blocks/") {
				c.t.Errorf("row %s is of no segment", e.Key)
			}
		}
	}
}

// covered reports whether a checkpoint that is held covers a block.
func (c *storeCheck) covered(id blockID) bool {
	return slices.ContainsFunc(c.held, func(h *heldCheck) bool { return h.cover[id.inCover()] })
}

// early reports whether some of a snapshot may be here before its blocks: it is being taken,
// or was and has been left.
func (c *storeCheck) early() bool {
	for id, cp := range c.checkpoints {
		if cp.state.hides() || cp.done > 0 && !cp.state.held() && c.mark(id).state != complete {
			return true
		}
	}
	return false
}

// telling reports whether some blocks that a cover completes have still to hear of that.
func (c *storeCheck) telling() bool {
	return slices.ContainsFunc(c.held, func(h *heldCheck) bool { return h.state == checkpointTold })
}

// mergeSnapshots adds to a model what snapshots say of blocks, those that are not here
// among them. It returns nil if a snapshot is not here. What one has may be dead in another.
func (c *storeCheck) mergeSnapshots(model modelSet) modelSet {
	live := make(map[*heldCheck]map[versionName]bool)
	for _, h := range c.held {
		if model == nil {
			return nil
		}
		if c.r.node.raw(h.snapshot.versions) != nil {
			live[h] = c.mergeSnapshot(model, h)
		} else if !c.allHere(h) {
			return nil
		}
	}
	for h, versions := range live {
		h.removeDead(model, versions)
	}
	return model
}

// mergeSnapshot adds the entries of a snapshot to a model, and returns which versions it has.
func (c *storeCheck) mergeSnapshot(model modelSet, h *heldCheck) map[versionName]bool {
	live := make(map[versionName]bool)
	for e, err := range c.r.Datastore.blocks.treeEntries(ctx, h.snapshot.tree(), 0) {
		c.r.must(err)
		k := model.key(e.key)
		if e.tombstone {
			k.tombstones[e.id] = true
			continue
		}
		live[versionName{e.key, e.id}] = true
		k.versions[e.id] = version{id: e.id, priority: e.priority, value: e.value}
		model.key(mergedBlocks).versions[e.id] = version{}
	}
	return live
}

// removeDead removes those versions from a model that a snapshot covers and does not have,
// and all claims about what it covers.
func (h *heldCheck) removeDead(model modelSet, live map[versionName]bool) {
	for key, k := range model {
		maps.DeleteFunc(k.claims, func(id blockID, _ version) bool { return h.cover[id.inCover()] })
		for id := range k.versions {
			if key != mergedBlocks && h.cover[id.inCover()] && !live[versionName{key, id}] {
				k.tombstones[id] = true
			}
		}
	}
}

// allHere reports whether all blocks that a checkpoint covers have rows.
func (c *storeCheck) allHere(h *heldCheck) bool {
	n := 0
	for id, m := range c.marks {
		if m.state.merged() && h.cover[id.inCover()] {
			n++
		}
	}
	return n == len(h.cover)
}
