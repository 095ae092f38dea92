package crdt

import "cmp"

// checkpoints are those that are known, by their blocks.
type checkpoints map[blockID]*checkpoint

// maxIdle bounds how many checkpoints are known of which nothing is made: with them
// peers could fill the memory.
const maxIdle = 256

// A checkpointsChange is what a commit does to them.
type checkpointsChange struct {
	overlay[checkpoints, *checkpoint]
}

func (c *checkpointsChange) set(cp *checkpoint) { c.add(cp.id, cp) }

// see takes notice of a checkpoint that is merged now, in the place of another if there
// are too many.
func (c *checkpointsChange) see(cp *checkpoint) {
	if least, n := c.now.leastIdle(); n >= maxIdle {
		c.remove(least.id)
	}
	c.set(cp)
}

// removeIdle removes a checkpoint if nothing is made of it.
func (c *checkpointsChange) removeIdle(id blockID) {
	if cp := c.now[id]; cp != nil && cp.idle() {
		c.remove(id)
	}
}

// where returns those of which something is true.
func (all checkpoints) where(is func(*checkpoint) bool) checkpoints {
	some := make(checkpoints)
	for id, cp := range all {
		if is(cp) {
			some[id] = cp
		}
	}
	return some
}

// held returns those whose cover counts as marks.
func (all checkpoints) held() checkpoints {
	return all.where(func(cp *checkpoint) bool { return cp.state.held() })
}

// newest returns the highest one of each DAG that is held.
func (all checkpoints) newest() tips {
	if len(all) == 0 {
		return nil // each announcement asks
	}
	newest := make(map[string]*checkpoint)
	for _, cp := range all {
		if best := newest[cp.tip.DAGName]; cp.state == checkpointHeld && (best == nil || cp.tip.Height > best.tip.Height) {
			newest[cp.tip.DAGName] = cp
		}
	}
	found := make(tips, len(newest))
	for _, cp := range newest {
		found[cp.id] = cp.tip
	}
	return found
}

// in returns those in a state.
func (all checkpoints) in(state checkpointState) checkpoints {
	return all.where(func(cp *checkpoint) bool { return cp.state == state })
}

// of returns those of a DAG.
func (all checkpoints) of(dagName string) checkpoints {
	return all.where(func(cp *checkpoint) bool { return cp.tip.DAGName == dagName })
}

// segments returns those of the covers of checkpoints, each once.
func (all checkpoints) segments() (segments []segment) {
	seen := make(map[segment]bool)
	for _, cp := range all {
		for _, seg := range cp.segments {
			if !seen[seg] {
				seen[seg] = true
				segments = append(segments, seg)
			}
		}
	}
	return segments
}

// heldSegments returns the segments of the covers that count as marks.
func (all checkpoints) heldSegments() []segment { return all.held().segments() }

// purgedSegments returns those of the covers whose DAGs are being purged. Each commit asks.
func (all checkpoints) purgedSegments() (segments []segment) {
	for _, cp := range all {
		if cp.state == checkpointPurged {
			segments = append(segments, cp.segments...)
		}
	}
	return segments
}

// use reports which segments checkpoints have, by their roots.
func (all checkpoints) use() map[blockID]bool {
	used := make(map[blockID]bool)
	for _, seg := range all.segments() {
		used[seg.root] = true
	}
	return used
}

// unused returns the segments that no checkpoint has any more once the commit is made.
func (c *checkpointsChange) unused() (segments []segment) {
	used := c.now.use()
	for id, was := range c.before {
		if c.now[id] == was {
			continue
		}
		for _, seg := range was.segments {
			if !used[seg.root] {
				segments = append(segments, seg)
			}
		}
	}
	return segments
}

// leastIdle returns the idle checkpoint that is worth least, and how many there are.
func (all checkpoints) leastIdle() (least *checkpoint, n int) {
	for _, cp := range all {
		if !cp.idle() {
			continue
		}
		if n++; least == nil || cp.isWorth(least) < 0 {
			least = cp
		}
	}
	return least, n
}

// isWorth compares idle checkpoints: void ones are worth least, and then low ones.
func (cp *checkpoint) isWorth(o *checkpoint) int {
	return cmp.Or(cmp.Compare(o.state, cp.state), cmp.Compare(cp.tip.Height, o.tip.Height), cp.id.compare(o.id))
}

// bringsCheckpoint reports whether the commit changes what is known of a checkpoint, or
// completes one.
func (c *commit) bringsCheckpoint() bool {
	if c.checkpoints.changed || len(c.checkpoints.now) == 0 {
		return c.checkpoints.changed
	}
	for _, id := range c.dag.completed {
		if c.checkpoints.now[id] != nil {
			return true
		}
	}
	return false
}
