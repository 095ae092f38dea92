package interop

// outcome is what the blocks amount to, in the plainest form: of all versions that no
// tombstone names, each key has the one of the greatest priority, and then of the greatest
// value, whatever the order in which the blocks come.
func outcome(blocks []*dagBlock) pairs {
	dead := make(map[tombstone]bool)
	for _, b := range blocks {
		for _, t := range b.delta.tombstones {
			dead[t] = true
		}
	}
	all := make(pairs)
	priorities := make(map[string]uint64)
	for _, b := range blocks {
		for _, e := range b.delta.elements {
			if dead[tombstone{e.key, b.id()}] {
				continue
			}
			value, found := all[e.key]
			if p := b.delta.priority; !found || p > priorities[e.key] || p == priorities[e.key] && e.value > value {
				all[e.key], priorities[e.key] = e.value, p
			}
		}
	}
	return all
}
