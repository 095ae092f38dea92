package crdt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
)

// A missingValues error names losing versions that must be read from their
// blocks before a commit can tell which of them is uncovered by a tombstone. Blocks are
// read while nothing is locked, and then the commit is tried again: by withValues,
// or by the merger, which has other blocks to merge meanwhile (merger.mergeLater).
type missingValues []versionName

func (m missingValues) Error() string {
	return fmt.Sprintf("crdt: %d values must be read from their blocks, such as that of %s in %s", len(m), m[0].key, m[0].id.Cid())
}

// valueReads are the reads of values that are going on. The value of a version is read
// from its block if the store did not have it; when the store has, so that the block can
// be dropped, some may still be about to read it.
type valueReads struct {
	mu      sync.Mutex
	current *sync.WaitGroup // of those that have begun since the last wait; may be nil
}

// begin begins one. Call end at its end.
func (r *valueReads) begin() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		r.current = new(sync.WaitGroup)
	}
	r.current.Add(1)
	return r.current.Done
}

// wait waits for those that have begun. One caller waits at a time.
func (r *valueReads) wait(ctx context.Context) error {
	r.mu.Lock()
	begun := r.current
	r.current = nil
	r.mu.Unlock()
	if begun == nil {
		return nil
	}
	done := make(chan struct{})
	go func() { begun.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keys returns the keys of the versions.
func (m missingValues) keys() map[string]bool {
	keys := make(map[string]bool)
	for _, n := range m {
		keys[n.key] = true
	}
	return keys
}

// withValues calls try, with the values that it has turned out to miss so far, until
// it misses none. From the first that it misses on no block is dropped meanwhile.
func (s *blockStore) withValues(ctx context.Context, try func(map[versionName]*loser) error) error {
	if err := try(nil); !errors.As(err, new(missingValues)) {
		return err
	}
	defer s.valueReads.begin()()
	var values map[versionName]*loser
	for {
		err := try(values)
		var missing missingValues
		if !errors.As(err, &missing) {
			return err
		}
		if values, err = s.values(ctx, missing, values); err != nil {
			return err
		}
	}
}

// values reads losing versions from their blocks and adds them to known. A
// version that its block turns out not to have is nil.
func (s *blockStore) values(ctx context.Context, names []versionName, known map[versionName]*loser) (map[versionName]*loser, error) {
	all := make(map[versionName]*loser, len(known)+len(names))
	maps.Copy(all, known)
	for id, names := range namesByBlock(names) {
		raw, err := s.fetch(ctx, s.service, link{id: id})
		if err == nil {
			err = s.valuesIn(ctx, id, raw, names, all)
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// maxValueBytes is how many bytes of values are read for one commit of a block that
// came from a peer, or those of one key.
const maxValueBytes = 1 << 20

// errKept says that a value has been kept, and its block dropped, since it was missing.
var errKept = errors.New("crdt: a value is in the store by now: begin anew")

// someValues reads versions as values does, those of one key after the other, until
// all that are known of their keys take more than a limit. Of each key it holds the
// best value alone: there may be any number of them. It is called amid a read of values.
func (s *blockStore) someValues(ctx context.Context, names missingValues, known map[versionName]*loser, limit int) (map[versionName]*loser, error) {
	read, needed := make(bestValues), names.keys()
	for n, l := range known {
		if needed[n.key] {
			read[n] = l
		}
	}
	read.doubt(names)
	byBlock := namesByBlock(names)
	for i, n := range names {
		if i > 0 && n.key != names[i-1].key && sizeOf(read) > limit {
			break
		}
		if _, ok := read[n]; ok {
			continue
		}
		if gone, err := s.marks.isGone(ctx, n.id); gone || err != nil {
			return nil, cmp.Or(err, errKept)
		}
		found, err := s.values(ctx, byBlock[n.id], nil)
		if err != nil {
			return nil, err
		}
		read.compare(found)
	}
	return read, nil
}

// bestValues are versions of which those with a value are the best of their keys.
type bestValues map[versionName]*loser

func (all bestValues) compare(found map[versionName]*loser) {
	best := make(map[string]*loser)
	for n, l := range all {
		if l != nil && l.hasValue {
			best[n.key] = l
		}
	}
	for n, l := range found {
		all[n] = l
		if l == nil || !l.hasValue {
			continue
		}
		b := best[n.key]
		if b == nil || l.beats(&b.version) {
			b, l = l, b
			best[n.key] = b
		}
		if l != nil {
			all[versionName{n.key, l.id}] = l.lostTo(b)
		}
	}
}

// doubt forgets those that lost to a version which is gone now, or they would not
// be asked for again, and that version.
func (all bestValues) doubt(names []versionName) {
	for _, n := range names {
		if l := all[n]; l != nil && !l.hasValue {
			delete(all, n)
			delete(all, versionName{n.key, *l.beatenBy})
		}
	}
}

// lostTo is a loser without the value that has been found less than another.
func (l *loser) lostTo(best *loser) *loser {
	return &loser{version: version{id: l.id, priority: l.priority}, beatenBy: &best.id}
}

// namesByBlock returns the names of each block.
func namesByBlock(names []versionName) map[blockID][]versionName {
	byBlock := make(map[blockID][]versionName)
	for _, n := range names {
		byBlock[n.id] = append(byBlock[n.id], n)
	}
	return byBlock
}

// sizeOf is what the values of versions take, in bytes.
func sizeOf(versions map[versionName]*loser) (size int) {
	for _, l := range versions {
		if l != nil {
			size += len(l.value)
		}
	}
	return size
}

// valuesIn adds some versions of a block. One block is read at a time.
func (s *blockStore) valuesIn(ctx context.Context, id blockID, raw []byte, names []versionName, all map[versionName]*loser) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	b, err := s.decodeMerged(id, raw)
	if err != nil {
		return err
	}
	versions := b.versions()
	for _, n := range names {
		all[n] = versions[n.key]
	}
	return nil
}

// versions are what a block gave to its keys.
func (b *block) versions() map[string]*loser {
	all := make(map[string]*loser, len(b.delta.elements))
	for _, e := range b.delta.elements {
		v := version{id: b.id, priority: b.delta.priority, value: e.GetValue()}
		if best := all[e.GetKey()]; best == nil || v.beats(&best.version) {
			all[e.GetKey()] = &loser{version: v, hasValue: true}
		}
	}
	return all
}
