package crdt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ipld "github.com/ipfs/go-ipld-format"
)

// SessionDAGService is a DAG service that can tie requests for related blocks
// together, as bitswap does. When the one given to New has a Session method,
// the blocks below an announcement are fetched in one session.
type SessionDAGService interface {
	ipld.DAGService
	// Session returns a getter that remembers who had the blocks it fetched.
	// It lives until ctx ends.
	Session(context.Context) ipld.NodeGetter
}

// blockStore reads and writes blocks through the user's DAG service.
type blockStore struct {
	service  ipld.DAGService
	newDelta func() Delta
	newTag   func() []byte
	check    func(context.Context, Head, Delta) error // Options.CheckDelta; may be nil
	timeout  time.Duration                            // for each request; 0: none
	maxSize  int
	marks    *rowStore // which blocks are here

	pagesGot    atomic.Uint64 // of snapshots, so far
	pagesWanted atomic.Int64  // that are being fetched

	valueReads valueReads
	reading    sync.Mutex // held to decode a block for its values: that may take much memory
}

// maxLinks is how many heads a block may link to: they take half of it at most.
// More than that remain heads.
func (s *blockStore) maxLinks() int { return s.maxSize / 2 / linkSize }

// linkSize is at least what one link adds to a block.
const linkSize = 48

// frameSize is at least what a block needs beside its links and elements: a tag,
// a priority, and lengths.
const frameSize = 64

// elementBudget is how many bytes of elements fit a block of a DAG with that many heads.
func (s *blockStore) elementBudget(dagName string, heads int) int {
	return s.maxSize - frameSize - len(dagName) - (min(heads, s.maxLinks())+maxSkips)*linkSize
}

// build makes the block of a delta on top of heads, with skip links. It stores
// nothing.
func (s *blockStore) build(d Delta, heads []blockID, skips ...blockID) (*block, error) {
	content, err := checkOwnDelta(d)
	if err != nil {
		return nil, err
	}
	if content.summary {
		return nil, fmt.Errorf("%w: summaries are read alone, not written", ErrInvalidBlock)
	}
	if content.priority == 0 || content.priority > maxPriority {
		return nil, fmt.Errorf("%w: priority %d is not between 1 and %d", ErrInvalidBlock, content.priority, uint64(maxPriority))
	}
	data, err := d.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: marshalling a delta: %w", ErrInvalidBlock, err)
	}
	links := slices.Concat(heads, skips)
	raw, err := encodeNode(data, links, len(skips))
	if err != nil {
		return nil, err
	}
	if len(raw) > s.maxSize {
		return nil, fmt.Errorf("%w: the block has %d bytes, Options.MaxBlockSize is %d", ErrTooLarge, len(raw), s.maxSize)
	}
	return &block{id: sha256.Sum256(raw), raw: raw, delta: content, links: links, skips: len(skips)}, nil
}

// decodeKnown reads the links of a block that was judged before, here or by the
// old module. It checks only that these are its bytes.
func (s *blockStore) decodeKnown(id blockID, raw []byte) (*block, error) {
	if err := checkBytes(id, raw); err != nil {
		return nil, err
	}
	links, err := decodeLinks(raw)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrInvalidBlock, id.Cid(), err)
	}
	b := &block{id: id}
	for _, l := range links {
		b.link(l)
	}
	summary, checkpoint := s.peek(raw)
	if summary {
		b.asSummary()
	}
	b.namesSnapshot = checkpoint
	return b, nil
}

// add stores a block, so that peers can fetch it.
func (s *blockStore) add(ctx context.Context, b *block) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.service.Add(ctx, b.node()); err != nil {
		return fmt.Errorf("crdt: adding block %s to the DAG service: %w", b.id.Cid(), err)
	}
	return nil
}

// keep stores blocks that came from a peer.
func (s *blockStore) keep(ctx context.Context, blocks []*block) error {
	if len(blocks) == 0 {
		return nil
	}
	nodes := make([]ipld.Node, len(blocks))
	for i, b := range blocks {
		nodes[i] = b.node()
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.service.AddMany(ctx, nodes); err != nil {
		return fmt.Errorf("crdt: adding %d announced blocks to the DAG service: %w", len(blocks), err)
	}
	return nil
}

// addAll stores blocks. When it fails, those that are stored stay: another replica may
// have made the same, and an announcement of it may have brought one here, to be merged
// next. An unused block does no harm.
func (s *blockStore) addAll(ctx context.Context, blocks []*block) error {
	for _, b := range blocks {
		if err := s.add(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a block, by whichever CID the DAG service has it.
func (s *blockStore) remove(ctx context.Context, id blockID) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	for _, v0 := range []bool{false, true} {
		if err := s.service.Remove(ctx, link{id, v0}.Cid()); err != nil && !ipld.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// removeAll removes blocks, and returns how many before the first that it could not.
func (s *blockStore) removeAll(ctx context.Context, ids []blockID) (removed int, err error) {
	for _, id := range ids {
		if err := s.remove(ctx, id); err != nil {
			return removed, fmt.Errorf("crdt: removing block %s: %w", id.Cid(), err)
		}
		removed++
	}
	return removed, nil
}

// fetchBlock fetches a block and checks it. An error that is
// ErrInvalidBlock is final: the block will never be any better.
func (s *blockStore) fetchBlock(ctx context.Context, l link) (*block, error) {
	raw, err := s.fetch(ctx, s.service, l)
	if err != nil {
		return nil, err
	}
	return s.decode(l.id, raw)
}

// fetch gets the bytes of a block, unchecked, within the time limit.
func (s *blockStore) fetch(ctx context.Context, from ipld.NodeGetter, l link) ([]byte, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	return fetch(ctx, from, l)
}

// fetch gets the bytes of a block, unchecked. It takes as long as ctx lets it.
// What cannot be found by one CID may be there by the other: it is not always
// known which, and two blocks may link to a third by different ones.
func fetch(ctx context.Context, from ipld.NodeGetter, l link) ([]byte, error) {
	node, err := from.Get(ctx, l.Cid())
	if ipld.IsNotFound(err) {
		node, err = from.Get(ctx, link{l.id, !l.v0}.Cid())
	}
	if err != nil {
		return nil, fmt.Errorf("crdt: fetching block %s: %w", l.Cid(), err)
	}
	if node == nil {
		return nil, fmt.Errorf("crdt: the DAG service gave nothing for block %s", l.Cid())
	}
	return node.RawData(), nil
}

// limit returns a context for one request. It ends when Options.DAGSyncerTimeout has passed.
func (s *blockStore) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.timeout)
}

// decode checks and reads a block. It takes raw bytes alone, so that nodes of
// any implementation will do, and keeps them.
func (s *blockStore) decode(id blockID, raw []byte) (*block, error) {
	if err := checkBytes(id, raw); err != nil {
		return nil, err
	}
	b, err := s.parse(id, raw)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrInvalidBlock, id.Cid(), err)
	}
	return b, nil
}

// decodeMerged reads a block that has been merged, here or by the old module, which
// let more pass: no rule is asked again, for its versions are here.
func (s *blockStore) decodeMerged(id blockID, raw []byte) (*block, error) {
	if err := checkBytes(id, raw); err != nil {
		return nil, err
	}
	b, _, err := s.open(id, raw)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrInvalidBlock, id.Cid(), err)
	}
	return b, nil
}

// getMerged fetches a block that has been merged, and reads its delta.
func (s *blockStore) getMerged(ctx context.Context, id blockID) (*block, error) {
	raw, err := s.fetch(ctx, s.service, link{id: id})
	if err != nil {
		return nil, err
	}
	return s.decodeMerged(id, raw)
}

func (s *blockStore) parse(id blockID, raw []byte) (*block, error) {
	if len(raw) > s.maxSize {
		return nil, fmt.Errorf("%w: %d bytes, Options.MaxBlockSize is %d", ErrTooLarge, len(raw), s.maxSize)
	}
	b, badLink, err := s.open(id, raw)
	if err == nil {
		err = badLink
	}
	if err == nil {
		err = b.delta.accept()
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// open reads all of a block, and tells of a link that leads to no block.
func (s *blockStore) open(id blockID, raw []byte) (b *block, badLink, err error) {
	node, err := decodeNode(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("not a dag-pb node: %w", err)
	}
	d := s.newDelta()
	if err := d.Unmarshal(node.Data()); err != nil {
		return nil, nil, fmt.Errorf("not a delta: %w", err)
	}
	b = &block{id: id, raw: raw}
	badLink = b.readLinks(node)
	if b.delta, err = takeApart(d); err != nil {
		return nil, nil, err
	}
	if b.delta.summary {
		b.asSummary()
	}
	return b, badLink, nil
}

// judge reads a block and reports whether it may be merged. An error that is
// ErrInvalidBlock is final.
func (s *blockStore) judge(ctx context.Context, id blockID, raw []byte) (*block, error) {
	b, err := s.decode(id, raw)
	if err == nil {
		err = s.admit(ctx, b)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// admit asks the user whether a block may be merged. An error that is
// ErrInvalidBlock is final.
func (s *blockStore) admit(ctx context.Context, b *block) error {
	if s.check == nil {
		return nil
	}
	err := s.check(ctx, b.head(), b.delta.from)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w %s: Options.CheckDelta: %w", ErrInvalidBlock, b.id.Cid(), err)
	}
	return err
}

// session returns a getter for related blocks, and what ends it. Without sessions
// it is that of all blocks.
func (s *blockStore) session(ctx context.Context) (from ipld.NodeGetter, end context.CancelFunc, ok bool) {
	sessions, ok := s.service.(SessionDAGService)
	if !ok {
		return s.service, func() {}, false
	}
	ctx, cancel := context.WithCancel(ctx)
	return sessions.Session(ctx), cancel, true
}

// isFinal reports whether an error is about the block itself, so that asking
// again cannot help.
func isFinal(err error) bool { return errors.Is(err, ErrInvalidBlock) }
