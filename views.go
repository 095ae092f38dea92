package crdt

import (
	"context"
	"fmt"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
)

// Set is the set of pairs behind a datastore.
type Set interface {
	// Add returns a delta that sets a key. It changes nothing: publish it.
	Add(ctx context.Context, key string, value []byte) (Delta, error)
	// Rmv returns a delta that removes the versions of a key that are here.
	// It is empty when there are none.
	Rmv(ctx context.Context, key string) (Delta, error)
	// Merge applies a delta as if it had come in the block of that id: "/"
	// and the upper-case base32 multihash. The block itself is not touched.
	Merge(ctx context.Context, d Delta, id string) error
	// Element returns the value of a key, or ds.ErrNotFound.
	Element(ctx context.Context, key string) ([]byte, error)
	// Elements returns the pairs that match a query.
	Elements(ctx context.Context, q query.Query) (query.Results, error)
	// InSet reports whether a key has a value.
	InSet(ctx context.Context, key string) (bool, error)
}

// Set returns the set of pairs. What Merge does to it is not replicated.
func (m *MerkleCRDT) Set() Set { return setView{m.Datastore} }

type setView struct{ d *Datastore }

func (s setView) Add(_ context.Context, key string, value []byte) (Delta, error) {
	key, err := cleanKey(key)
	if err != nil {
		return nil, err
	}
	d := s.d.blocks.newDelta()
	d.SetElements([]*pb.Element{{Key: key, Value: value}})
	return d, nil
}

func (s setView) Rmv(ctx context.Context, key string) (Delta, error) {
	if err := s.d.enter(); err != nil {
		return nil, err
	}
	defer s.d.leave()
	key = ds.NewKey(key).String()
	ids, err := newSetChange(s.d.store, false, false).live(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	d := s.d.blocks.newDelta()
	d.SetTombstones(tombstonesFor(key, ids))
	return d, nil
}

func (s setView) Merge(ctx context.Context, d Delta, id string) (err error) {
	ctx, end, err := s.d.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	content, err := checkOwnDelta(d)
	if err != nil {
		return err
	}
	b, ok := parseDsKey(id)
	if !ok {
		return fmt.Errorf("crdt: %q is not a block id", id)
	}
	return s.d.committer.do(ctx, func(c *commit) error {
		return c.mergeSet(ctx, b, content)
	})
}

func (s setView) Element(ctx context.Context, key string) ([]byte, error) {
	return s.d.Get(ctx, ds.NewKey(key))
}

func (s setView) Elements(ctx context.Context, q query.Query) (query.Results, error) {
	return s.d.Query(ctx, q)
}

func (s setView) InSet(ctx context.Context, key string) (bool, error) {
	return s.d.Has(ctx, ds.NewKey(key))
}

// Heads are the heads of all DAGs.
type Heads interface {
	// Get returns a head.
	Get(ctx context.Context, c cid.Cid) (Head, bool)
	// Len returns how many heads there are in all DAGs.
	Len(ctx context.Context) (int, error)
	// LenDAG returns how many heads a DAG has.
	LenDAG(ctx context.Context, dagName string) (int, error)
	// Replace puts a head in the place of another.
	Replace(ctx context.Context, old, replacement Head) error
	// Add adds a head.
	Add(ctx context.Context, h Head) error
	// List returns the heads of all DAGs and their greatest height.
	List(ctx context.Context) ([]Head, uint64, error)
	// ListDAG returns the heads of a DAG and their greatest height.
	ListDAG(ctx context.Context, dagName string) ([]Head, uint64, error)
}

// Heads returns the heads. Merging keeps them: Add and Replace are for repairs
// by hand, and it is up to the caller that the blocks are there.
func (m *MerkleCRDT) Heads() Heads { return headsView{m.Datastore} }

type headsView struct{ d *Datastore }

func (h headsView) Get(_ context.Context, c cid.Cid) (Head, bool) {
	heads, _ := h.d.frontier.tips()
	id, err := blockIDOf(c)
	v, ok := heads[id]
	if err != nil || !ok {
		return Head{}, false
	}
	return Head{HeadValue: v, Cid: c}, true
}

func (h headsView) Len(ctx context.Context) (int, error) {
	list, _, err := h.List(ctx)
	return len(list), err
}

func (h headsView) LenDAG(ctx context.Context, dagName string) (int, error) {
	list, _, err := h.ListDAG(ctx, dagName)
	return len(list), err
}

func (h headsView) List(context.Context) ([]Head, uint64, error) {
	return h.list(func(Head) bool { return true })
}

func (h headsView) ListDAG(_ context.Context, dagName string) ([]Head, uint64, error) {
	return h.list(func(head Head) bool { return head.DAGName == dagName })
}

func (h headsView) list(match func(Head) bool) (matching []Head, height uint64, err error) {
	if h.d.closed.Load() {
		return nil, 0, ErrClosed
	}
	heads, _ := h.d.frontier.tips()
	for _, head := range heads.list() {
		if match(head) {
			matching = append(matching, head)
			height = max(height, head.Height)
		}
	}
	return matching, height, nil
}

func (h headsView) Add(ctx context.Context, head Head) error { return h.replace(ctx, nil, head) }

func (h headsView) Replace(ctx context.Context, old, replacement Head) error {
	return h.replace(ctx, []cid.Cid{old.Cid}, replacement)
}

func (h headsView) replace(ctx context.Context, old []cid.Cid, replacement Head) error {
	if err := h.d.enter(); err != nil {
		return err
	}
	defer h.d.leave()
	ids, err := cidsToIDs(append(old, replacement.Cid))
	if err == nil {
		err = checkDAGName(replacement.DAGName)
	}
	if err != nil {
		return err
	}
	return h.d.committer.do(ctx, func(c *commit) error {
		last := len(ids) - 1
		for _, id := range ids[:last] {
			c.dag.heads.remove(id)
		}
		c.dag.heads.add(ids[last], replacement.HeadValue)
		return nil
	})
}
