package crdt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	cid "github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
	dagpb "github.com/ipfs/go-merkledag/pb"
	mh "github.com/multiformats/go-multihash"
)

// What a checkpoint carries stands in pages: nodes in the DAG service that link to
// each other, and that no block links to. They come from peers, as blocks do.

// errBadSnapshot marks pages that no honest replica makes, or that are not what the
// checkpoint says. They will never be any better. Any other error says that pages are
// not to be had now.
var errBadSnapshot = errors.New("crdt: malformed checkpoint")

// maxPageSize is the greatest size of a page in bytes. All replicas must agree, so it
// does not follow Options.MaxBlockSize.
const maxPageSize = 1 << 20

// A page is a dag-pb node or, if it is raw, a value that is too large to stand among
// others.
type page struct {
	id   blockID
	data []byte
	raw  bool
}

// A pageName names a page.
type pageName struct {
	id  blockID
	raw bool
}

// A pageSink takes pages, some at a time. It may keep their data.
type pageSink interface {
	addPages(ctx context.Context, pages []page) error
}

func (p *page) name() pageName { return pageName{p.id, p.raw} }

// Cid returns the CID of the page.
func (n pageName) Cid() cid.Cid {
	if !n.raw {
		return n.id.Cid()
	}
	multihash := n.id.multihash()
	return cid.NewCidV1(cid.Raw, multihash[:])
}

// idIn returns the id in a link to a page, if it is one of this kind.
func idIn(c cid.Cid, raw bool) (blockID, error) {
	codec := uint64(cid.DagProtobuf)
	if raw {
		codec = cid.Raw
	}
	id, ok := blockIDIn(mh.Multihash(c.Hash()))
	if !ok || c.Version() != 1 || c.Type() != codec {
		return id, fmt.Errorf("a link to %s", c)
	}
	return id, nil
}

// encodePage writes a dag-pb node that links to pages.
func encodePage(data []byte, links []pageName) ([]byte, error) {
	node := dagpb.PBNode{Data: data, Links: make([]*dagpb.PBLink, len(links))}
	name, size := "", uint64(0)
	for i, l := range links {
		node.Links[i] = &dagpb.PBLink{Hash: l.Cid().Bytes(), Name: &name, Tsize: &size}
	}
	return node.Marshal()
}

func (p *page) node() (ipld.Node, error) {
	if !p.raw {
		return newBlockNode(p.id, p.data), nil
	}
	b, err := blocks.NewBlockWithCid(p.data, p.name().Cid())
	if err != nil {
		return nil, err
	}
	return merkledag.DecodeRawBlock(b)
}

// addPages implements pageSink: peers can fetch them.
func (s *blockStore) addPages(ctx context.Context, pages []page) error {
	nodes := make([]ipld.Node, len(pages))
	for i := range pages {
		var err error
		if nodes[i], err = pages[i].node(); err != nil {
			return err
		}
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.service.AddMany(ctx, nodes); err != nil {
		return fmt.Errorf("crdt: adding %d pages to the DAG service: %w", len(pages), err)
	}
	return nil
}

// removePage removes a page. One that is not there does no harm.
func (s *blockStore) removePage(ctx context.Context, n pageName) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.service.Remove(ctx, n.Cid()); err != nil && !ipld.IsNotFound(err) {
		return fmt.Errorf("crdt: removing page %s: %w", n.Cid(), err)
	}
	return nil
}

// errNoPage says that a page cannot be had, as far as is known.
var errNoPage = errors.New("crdt: a page of a snapshot cannot be had")

// getPage gets the bytes of a page, which are its own.
func (s *blockStore) getPage(ctx context.Context, from ipld.NodeGetter, n pageName) ([]byte, error) {
	s.pagesWanted.Add(1)
	defer s.pagesWanted.Add(-1)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	node, err := from.Get(ctx, n.Cid())
	if err != nil {
		return nil, fmt.Errorf("%w: fetching %s: %w", errNoPage, n.Cid(), err)
	}
	if node == nil {
		return nil, fmt.Errorf("%w: the DAG service gave nothing for %s", errNoPage, n.Cid())
	}
	data := node.RawData()
	if err := checkBytes(n.id, data); err != nil {
		return nil, err
	}
	s.pagesGot.Add(1)
	if limit := s.maxSizeOf(n); len(data) > limit {
		return nil, fmt.Errorf("%w: page %s has %d bytes, the limit is %d", errBadSnapshot, n.Cid(), len(data), limit)
	}
	return data, nil
}

// maxSizeOf is the greatest size of a page. A value came in a block.
func (s *blockStore) maxSizeOf(n pageName) int {
	if n.raw {
		return s.maxSize
	}
	return maxPageSize
}

// A pageReader gets pages in one session. Its methods may be called from several
// goroutines, but end.
type pageReader struct {
	store   *blockStore
	ctx     context.Context
	cancel  context.CancelFunc
	from    ipld.NodeGetter
	session bool
	workers sync.WaitGroup
}

// readPages returns a pageReader. Call end.
func (s *blockStore) readPages(ctx context.Context) *pageReader {
	r := &pageReader{store: s}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.from, _, r.session = s.session(r.ctx)
	return r
}

// end cuts off all requests, and waits until they have ended.
func (r *pageReader) end() {
	r.cancel()
	r.workers.Wait()
}

// get gets the bytes of a page. Sessions may fall silent: then it is asked for outside.
func (r *pageReader) get(n pageName) ([]byte, error) {
	if r.session {
		ctx, cancel := context.WithTimeout(r.ctx, sessionPatience)
		defer cancel()
		data, err := r.store.getPage(ctx, r.from, n)
		if err == nil || ctx.Err() == nil || r.ctx.Err() != nil {
			return data, err
		}
	}
	return r.store.getPage(r.ctx, r.store.service, n)
}

// An outcome is what became of one job.
type outcome[R any] struct {
	result R
	err    error
}

// ahead does jobs side by side, up to n more than have been asked for, and yields what
// comes of them in their order, up to the first error.
func ahead[J, R any](r *pageReader, n int, jobs iter.Seq2[J, error], do func(J) (R, error)) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		ctx, cancel := context.WithCancel(r.ctx)
		defer cancel()
		begun := make(chan chan outcome[R], n)
		r.workers.Go(func() {
			defer close(begun)
			beginAll(ctx, &r.workers, begun, jobs, do)
		})
		for done := range begun {
			o := <-done
			if !yield(o.result, o.err) || o.err != nil {
				return
			}
		}
		if err := r.ctx.Err(); err != nil { // not all jobs may have begun
			yield(*new(R), err)
		}
	}
}

// beginAll begins jobs as long as there is room for what comes of them.
func beginAll[J, R any](ctx context.Context, workers *sync.WaitGroup, begun chan<- chan outcome[R], jobs iter.Seq2[J, error], do func(J) (R, error)) {
	for job, err := range jobs {
		done := make(chan outcome[R], 1)
		select {
		case begun <- done:
		case <-ctx.Done():
			return
		}
		if err != nil {
			done <- outcome[R]{err: err}
			return
		}
		workers.Go(func() {
			result, err := do(job)
			done <- outcome[R]{result, err}
		})
	}
}
