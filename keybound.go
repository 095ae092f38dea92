package crdt

import "context"

// A keyBound is a key above which no key has a record in the store, if one is known. While
// keys are written in ascending order to a store that had no records, as when a newcomer
// takes a checkpoint, no commit has to look for their records, which was half of its work.
//
// It could be known of other stores too, if they were asked for their last record when
// they are opened; but many go-datastores would read all of them for that.
type keyBound struct {
	known bool
	key   string
}

// keyBound finds out whether there are any records. No key is empty.
func (s *rowStore) keyBound(ctx context.Context) (keyBound, error) {
	any, err := s.hasAny(ctx, s.keys.records)
	return keyBound{known: !any}, err
}

// excludes reports whether it is known that a key has no record.
func (b *keyBound) excludes(key string) bool { return b.known && key > b.key }

// raise is for keys that may have been given records.
func (b *keyBound) raise(touched []*keyChange) {
	if !b.known {
		return
	}
	for _, k := range touched {
		b.key = max(b.key, k.key)
	}
}

// loadUnless reads the record of a key, unless it is known that there is none.
func (s *rowStore) loadUnless(ctx context.Context, bound keyBound, key string) (*keyChange, error) {
	if bound.excludes(key) {
		return newKeyChange(key), nil
	}
	return s.loadKey(ctx, key)
}
