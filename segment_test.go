package crdt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// hashedID is the id of an invented block, as even as those of real ones.
func hashedID(n int) blockID {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// hashedIDs are those of n blocks, from one on, as a cover has them.
func hashedIDs(from, n int) []coverID {
	ids := make([]coverID, n)
	for i := range ids {
		ids[i] = hashedID(from + i).inCover()
	}
	slices.SortFunc(ids, coverID.compare)
	return ids
}

func streamOf[T any](items []T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}

// extend makes a cover of others and fresh ids.
func (r *replica) extend(fresh []coverID, bases ...[]segment) []segment {
	r.t.Helper()
	blocks := r.Datastore.blocks
	segments, err := blocks.extendCover(ctx, blocks, bases, uint64(len(fresh)), streamOf(fresh))
	r.must(err)
	return segments
}

func (r *replica) idsIn(segments []segment) (ids []coverID) {
	r.t.Helper()
	for at, err := range mergeSorted(coverID.compare, r.Datastore.blocks.idsOf(ctx, segments)...) {
		r.must(err)
		ids = append(ids, at.item)
	}
	return ids
}

func TestCoverGrowsLikeTheLevelsOfATree(t *testing.T) {
	r := newTestNet().newReplica(t)
	var cover []segment
	for n := range 300 {
		cover = r.extend(hashedIDs(n, 1), cover)
		for i, seg := range cover {
			if i > 0 && cover[i-1].ids < growth*seg.ids {
				t.Fatalf("after %d checkpoints the segments are %v", n, cover)
			}
		}
	}
	if !slices.Equal(r.idsIn(cover), hashedIDs(0, 300)) {
		t.Error("ids are missing")
	}
	root, err := r.Datastore.blocks.writeCover(ctx, r.Datastore.blocks, cover)
	r.must(err)
	read, err := r.Datastore.blocks.readCover(ctx, root)
	r.must(err)
	if !slices.Equal(read, cover) {
		t.Errorf("read %v, want %v", read, cover)
	}
}

func TestCoversSideBySideAreJoined(t *testing.T) {
	r := newTestNet().newReplica(t)
	below := r.extend(hashedIDs(0, 1000))
	a, b := r.extend(hashedIDs(1000, 10), below), r.extend(hashedIDs(1005, 10), below)
	joined := r.extend(hashedIDs(1015, 5), a, b)
	if joined[0] != below[0] || !slices.Equal(r.idsIn(joined), hashedIDs(0, 1020)) {
		t.Errorf("%v and %v became %v", a, b, joined)
	}
	other := r.extend(hashedIDs(0, 1020))
	for _, c := range []struct {
		cover []segment
		same  bool
	}{{other, true}, {joined, true}, {a, false}, {r.extend(hashedIDs(1, 1020)), false}} {
		if same, err := r.Datastore.blocks.sameCover(ctx, joined, c.cover); same != c.same || err != nil {
			t.Errorf("sameCover(%v, %v): %v, %v", joined, c.cover, same, err)
		}
	}
}

func TestStagedSegmentsCanBeLookedUp(t *testing.T) {
	r := newTestNet().newReplica(t)
	cover := r.extend(hashedIDs(0, 20000))
	cover = r.extend(hashedIDs(20000, 100), cover)
	r.must(r.committer.stageSegments(ctx, cover))
	for n := range 20200 {
		found, err := r.Datastore.store.inSegments(ctx, cover, hashedID(n))
		if err != nil || found != (n < 20100) {
			t.Fatalf("block %d: %v, %v", n, found, err)
		}
	}
	twice := append(r.extend(hashedIDs(20099, 10)), cover...)
	if err := r.committer.stageSegments(ctx, twice); !errors.Is(err, errBadSnapshot) {
		t.Errorf("a block in two segments: %v", err)
	}
	r.must(r.committer.sweepSegments(ctx))
	if rows := r.rowsUnder("/w"); len(rows) > 0 {
		t.Errorf("rows are left, such as %s", rows[0].Key)
	}
}
