package crdt

import (
	"context"
	"iter"
	"slices"
)

func (s *blockStore) idsOf(ctx context.Context, segments []segment) []iter.Seq2[coverID, error] {
	sources := make([]iter.Seq2[coverID, error], len(segments))
	for i, seg := range segments {
		sources[i] = s.segmentIDs(ctx, seg)
	}
	return sources
}

// extendCover makes the segments of a cover that has all that some others have, and n
// fresh ids, sorted. It keeps what they have in common, but for the last segments, that
// do not have growth times as many ids as what comes after them: these become one with
// that. So there are O(log n), and an id is written O(log n) times.
func (s *blockStore) extendCover(ctx context.Context, to pageSink, bases [][]segment, n uint64, fresh iter.Seq2[coverID, error]) ([]segment, error) {
	kept, rest := commonSegments(bases)
	total := coverIDs(rest) + n
	if total == 0 {
		return kept, nil
	}
	for len(kept) > 0 && kept[len(kept)-1].ids < growth*total {
		last := kept[len(kept)-1]
		kept, rest = kept[:len(kept)-1], append(rest, last)
		total += last.ids
	}
	if len(rest) == 1 && n == 0 {
		return append(kept, rest[0]), nil
	}
	sources := s.idsOf(ctx, rest)
	if n > 0 {
		sources = append(sources, fresh)
	}
	seg, err := s.writeSegment(ctx, to, sources)
	if err != nil {
		return nil, err
	}
	return append(kept, seg), nil
}

// commonSegments returns the segments that all covers have, and those that some have.
func commonSegments(covers [][]segment) (common, rest []segment) {
	count := make(map[blockID]int)
	for _, cover := range covers {
		for _, seg := range cover {
			if count[seg.root]++; count[seg.root] == 1 {
				rest = append(rest, seg)
			}
		}
	}
	for _, seg := range rest {
		if count[seg.root] == len(covers) {
			common = append(common, seg)
		}
	}
	rest = slices.DeleteFunc(rest, func(seg segment) bool { return count[seg.root] == len(covers) })
	return common, rest
}

// writeSegment writes a segment of the ids in several sources. Those that many have
// come once.
func (s *blockStore) writeSegment(ctx context.Context, to pageSink, sources []iter.Seq2[coverID, error]) (segment, error) {
	b := &segmentBuilder{to: to}
	var last coverID
	for at, err := range mergeSorted(coverID.compare, sources...) {
		if err == nil && (b.ids == 0 || at.item != last) {
			last, err = at.item, b.add(ctx, at.item)
		}
		if err != nil {
			return segment{}, err
		}
	}
	return b.finish(ctx)
}

// sameCover reports whether two covers have the same ids. It reads those segments that
// one of them has alone.
func (s *blockStore) sameCover(ctx context.Context, a, b []segment) (bool, error) {
	_, rest := commonSegments([][]segment{a, b})
	if coverIDs(a) != coverIDs(b) {
		return false, nil
	}
	ofA := func(source int) bool { return slices.Contains(a, rest[source]) }
	var last *sourced[coverID] // that the other one must have as well
	for at, err := range mergeSorted(coverID.compare, s.idsOf(ctx, rest)...) {
		switch {
		case err != nil:
			return false, err
		case last == nil:
			last = &at
		case at.item != last.item || ofA(at.source) == ofA(last.source):
			return false, nil
		default:
			last = nil
		}
	}
	return last == nil, nil
}
