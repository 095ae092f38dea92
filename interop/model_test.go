package interop

import "github.com/ipfs/go-datastore"

// outcome is what the blocks amount to, in the plainest form: of all versions that no
// tombstone names, each key has the one of the greatest priority, and then of the greatest
// value, whatever the order in which the blocks come. The key / holds nothing.
func outcome(blocks []*dagBlock) pairs {
	dead := make(map[tombstone]bool)
	for _, b := range blocks {
		for _, t := range b.delta.tombstones {
			dead[tombstone{cleaned(t.key), t.id}] = true
		}
	}
	all := make(pairs)
	priorities := make(map[string]uint64)
	for _, b := range blocks {
		for _, e := range b.delta.elements {
			key := cleaned(e.key)
			if key == "/" || dead[tombstone{key, b.id()}] {
				continue
			}
			value, found := all[key]
			if p := b.delta.priority; !found || p > priorities[key] || p == priorities[key] && e.value > value {
				all[key], priorities[key] = e.value, p
			}
		}
	}
	return all
}

func cleaned(key string) string { return datastore.NewKey(key).String() }
