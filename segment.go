package crdt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
)

// A coverID is a block as a cover has it: the first half of its digest. Among 2^30
// blocks there is a second one to it with a probability of 2^-98.
type coverID [16]byte

func (id blockID) inCover() coverID { return coverID(id[:]) }

func (id coverID) compare(other coverID) int { return bytes.Compare(id[:], other[:]) }

// A segment is a part of a cover: different ids, sorted, in pages. The root of these
// names it. It never changes, and covers share it.
//
// Its pages are dag-pb nodes. A leaf holds ids and nothing else, and any other page
// links to those below it. All are full but the last ones, so that the number of ids
// says what there has to be, and the ids alone say which pages.
//
// A cover is the root page that links to its segments, and says how many ids each has.
// Segments are merged like the levels of an LSM tree (extendCover): there are few, each
// much larger than the next, and what a checkpoint writes follows what is new. The
// segments of a cover have no id in common.
type segment struct {
	root blockID
	ids  uint64
}

const (
	leafIDs       = 16 << 10 // in one page: 256 KiB
	pageLinks     = 4 << 10  // of one page: some 180 KiB
	maxSegmentIDs = leafIDs * pageLinks * pageLinks
	growth        = 4  // how many times as many ids as the next one a segment of a cover has, at least
	maxSegments   = 20 // of a cover: growth^19 = maxSegmentIDs
	leavesAhead   = 8  // are read of each segment, so a cover takes 25 MiB at most
)

// capacity is how many ids there are below a full page that is so many levels above
// the leaves.
func capacity(level int) uint64 {
	n := uint64(leafIDs)
	for range level {
		n *= pageLinks
	}
	return n
}

// A coverPage is a page of a segment: at which level above the leaves it is, and how
// many ids are in it and below.
type coverPage struct {
	id    blockID
	level int
	ids   uint64
}

func (s segment) top() coverPage {
	level := 0
	for capacity(level) < s.ids {
		level++
	}
	return coverPage{s.root, level, s.ids}
}

// coverIDs returns how many ids a cover has.
func coverIDs(segments []segment) (n uint64) {
	for _, s := range segments {
		n += s.ids
	}
	return n
}

// readCover reads which segments a cover has.
func (s *blockStore) readCover(ctx context.Context, root blockID) ([]segment, error) {
	r := s.readPages(ctx)
	defer r.end()
	raw, err := r.get(pageName{id: root})
	if err != nil {
		return nil, err
	}
	segments, err := decodeCover(raw)
	if err != nil {
		return nil, fmt.Errorf("cover %s: %w", root.Cid(), err)
	}
	return segments, nil
}

// writeCover writes the root page of a cover.
func (s *blockStore) writeCover(ctx context.Context, to pageSink, segments []segment) (blockID, error) {
	var sizes []byte
	links := make([]pageName, len(segments))
	for i, seg := range segments {
		sizes = binary.AppendUvarint(sizes, seg.ids)
		links[i].id = seg.root
	}
	return addCoverPage(ctx, to, sizes, links)
}

func addCoverPage(ctx context.Context, to pageSink, data []byte, links []pageName) (blockID, error) {
	raw, err := encodePage(data, links)
	if err != nil {
		return blockID{}, err
	}
	id := blockID(sha256.Sum256(raw))
	return id, to.addPages(ctx, []page{{id: id, data: raw}})
}

func decodeCover(raw []byte) ([]segment, error) {
	sizes, links, err := decodeCoverPage(raw, maxSegments)
	if err != nil {
		return nil, err
	}
	segments := make([]segment, len(links))
	seen := make(map[blockID]bool)
	for i, root := range links {
		ids, n := binary.Uvarint(sizes)
		large := i > 0 && segments[i-1].ids < growth*ids // too large to come here
		if n <= 0 || ids == 0 || ids > maxSegmentIDs || large || seen[root] {
			return nil, fmt.Errorf("%w: segment %d of %d ids", errBadSnapshot, i, ids)
		}
		segments[i], sizes, seen[root] = segment{root, ids}, sizes[n:], true
	}
	if len(sizes) > 0 {
		return nil, fmt.Errorf("%w: the sizes of segments that it does not have", errBadSnapshot)
	}
	return segments, nil
}

// decodeCoverPage reads a page that may have just so many links.
func decodeCoverPage(raw []byte, maxLinks int) (data []byte, links []blockID, err error) {
	node, err := decodeNode(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: not a dag-pb node: %w", errBadSnapshot, err)
	}
	if len(node.Links()) > maxLinks {
		return nil, nil, fmt.Errorf("%w: %d links", errBadSnapshot, len(node.Links()))
	}
	for _, l := range node.Links() {
		id, err := idIn(l.Cid, false)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errBadSnapshot, err)
		}
		links = append(links, id)
	}
	return node.Data(), links, nil
}

// below returns the pages below one that is not a leaf.
func (p coverPage) below(raw []byte) ([]coverPage, error) {
	each := capacity(p.level - 1)
	n := int((p.ids + each - 1) / each)
	data, links, err := decodeCoverPage(raw, n)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 || len(links) != n {
		return nil, fmt.Errorf("%w: %d links and %d bytes where %d links should be", errBadSnapshot, len(links), len(data), n)
	}
	pages := make([]coverPage, n)
	for i, id := range links {
		pages[i] = coverPage{id, p.level - 1, min(each, p.ids-uint64(i)*each)}
	}
	return pages, nil
}

// leaf returns the ids in a leaf, one after the other.
func (p coverPage) leaf(raw []byte) ([]byte, error) {
	data, _, err := decodeCoverPage(raw, 0)
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) != p.ids*uint64(len(coverID{})) {
		return nil, fmt.Errorf("%w: %d bytes where %d ids should be", errBadSnapshot, len(data), p.ids)
	}
	return data, nil
}

// walkCover yields a page and all below it. It reads those that are not leaves.
func (r *pageReader) walkCover(p coverPage, yield func(coverPage, error) bool) (more bool) {
	if !yield(p, nil) {
		return false
	}
	if p.level == 0 {
		return true
	}
	pages, err := readCoverPage(r, p, coverPage.below)
	if err != nil {
		yield(coverPage{}, err)
		return false
	}
	for _, below := range pages {
		if !r.walkCover(below, yield) {
			return false
		}
	}
	return true
}

func readCoverPage[R any](r *pageReader, p coverPage, decode func(coverPage, []byte) (R, error)) (read R, err error) {
	raw, err := r.get(pageName{id: p.id})
	if err == nil {
		read, err = decode(p, raw)
	}
	if err != nil {
		err = fmt.Errorf("page %s of a cover: %w", p.id.Cid(), err)
	}
	return read, err
}

// leavesOf yields what is in the leaves of a segment.
func (r *pageReader) leavesOf(seg segment) iter.Seq2[[]byte, error] {
	pages := func(yield func(coverPage, error) bool) {
		r.walkCover(seg.top(), func(p coverPage, err error) bool {
			return err == nil && p.level > 0 || yield(p, err)
		})
	}
	return ahead(r, leavesAhead, pages, func(p coverPage) ([]byte, error) { return readCoverPage(r, p, coverPage.leaf) })
}

// segmentIDs yields the ids of a segment in their order, and an error where they are
// not what they have to be.
func (s *blockStore) segmentIDs(ctx context.Context, seg segment) iter.Seq2[coverID, error] {
	return func(yield func(coverID, error) bool) {
		r := s.readPages(ctx)
		defer r.end()
		var last coverID
		first := true
		for leaf, err := range r.leavesOf(seg) {
			if err != nil {
				yield(coverID{}, err)
				return
			}
			for id := range eachCoverID(leaf) {
				if !first && id.compare(last) <= 0 {
					yield(id, fmt.Errorf("%w: segment %s is not sorted", errBadSnapshot, seg.root.Cid()))
					return
				}
				if !yield(id, nil) {
					return
				}
				last, first = id, false
			}
		}
	}
}

// eachCoverID yields the ids in a row or a leaf.
func eachCoverID(ids []byte) iter.Seq[coverID] {
	return func(yield func(coverID) bool) {
		for id := range slices.Chunk(ids, len(coverID{})) {
			if !yield(coverID(id)) {
				return
			}
		}
	}
}

// A segmentBuilder writes a segment.
type segmentBuilder struct {
	to     pageSink
	ids    uint64
	leaf   []byte       // the ids of the last one
	levels [][]pageName // pages that are not linked to yet, by their level
}

// add adds an id. They come in order.
func (b *segmentBuilder) add(ctx context.Context, id coverID) error {
	b.leaf = append(b.leaf, id[:]...)
	if b.ids++; b.ids%leafIDs > 0 {
		return nil
	}
	return b.endLeaf(ctx)
}

func (b *segmentBuilder) endLeaf(ctx context.Context) error {
	err := b.endPage(ctx, 0, b.leaf, nil)
	b.leaf = b.leaf[:0]
	return err
}

func (b *segmentBuilder) endLinks(ctx context.Context, level int) error {
	err := b.endPage(ctx, level+1, nil, b.levels[level])
	b.levels[level] = b.levels[level][:0]
	return err
}

func (b *segmentBuilder) endPage(ctx context.Context, level int, data []byte, links []pageName) error {
	id, err := addCoverPage(ctx, b.to, data, links)
	if err != nil {
		return err
	}
	if level == len(b.levels) {
		b.levels = append(b.levels, nil)
	}
	b.levels[level] = append(b.levels[level], pageName{id: id})
	if len(b.levels[level]) < pageLinks {
		return nil
	}
	return b.endLinks(ctx, level)
}

// finish writes what is left. There must be an id.
func (b *segmentBuilder) finish(ctx context.Context) (segment, error) {
	if len(b.leaf) > 0 {
		if err := b.endLeaf(ctx); err != nil {
			return segment{}, err
		}
	}
	for level := 0; ; level++ {
		last := level == len(b.levels)-1
		if last && len(b.levels[level]) == 1 {
			return segment{b.levels[level][0].id, b.ids}, nil
		}
		if len(b.levels[level]) > 0 {
			if err := b.endLinks(ctx, level); err != nil {
				return segment{}, err
			}
		}
	}
}

// coverPages yields all pages of a cover. It reads none but those above the leaves.
func (s *blockStore) coverPages(ctx context.Context, root blockID) iter.Seq2[blockID, error] {
	return func(yield func(blockID, error) bool) {
		if !yield(root, nil) {
			return
		}
		segments, err := s.readCover(ctx, root)
		if err != nil {
			yield(blockID{}, err)
			return
		}
		r := s.readPages(ctx)
		defer r.end()
		for _, seg := range segments {
			more := r.walkCover(seg.top(), func(p coverPage, err error) bool { return yield(p.id, err) })
			if !more {
				return
			}
		}
	}
}

// compare orders segments by their size.
func (seg segment) compare(other segment) int {
	return cmp.Or(cmp.Compare(seg.ids, other.ids), seg.root.compare(other.root))
}
