package crdt

import (
	"context"
	"errors"
	"fmt"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	dag "github.com/ipfs/go-merkledag"
)

// MerkleCRDT is a Datastore with its inner layers open: deltas of the user's
// own type, and several DAGs with names beside the one that the Datastore's
// writes go to. All DAGs feed one set of pairs.
type MerkleCRDT struct {
	*Datastore
}

// MerkleCRDTOptions configure what only NewMerkleCRDT lets one choose.
type MerkleCRDTOptions struct {
	// DeltaFactory returns a new, empty Delta. All replicas must read the
	// same bytes alike. nil means the default delta.
	DeltaFactory func() Delta
	// Namespaces name the rows in the store. All may be empty.
	Namespaces InternalNamespaces
}

// NewMerkleCRDT does what New does, and takes further options. nil means the
// defaults.
func NewMerkleCRDT(store ds.Datastore, namespace ds.Key, dagSyncer ipld.DAGService, bcast Broadcaster, opts *Options, internalOptions *MerkleCRDTOptions) (*MerkleCRDT, error) {
	o, err := opts.complete()
	if err != nil {
		return nil, err
	}
	var internal MerkleCRDTOptions
	if internalOptions != nil {
		internal = *internalOptions
	}
	if internal.DeltaFactory == nil {
		internal.DeltaFactory = newPBDelta
	}
	names, err := internal.Namespaces.complete()
	if err != nil {
		return nil, err
	}
	d, err := open(store, namespace, dagSyncer, bcast, o, names, internal.DeltaFactory)
	if err != nil {
		return nil, err
	}
	return &MerkleCRDT{d}, nil
}

// Publish makes a delta a block on top of the heads of its DAG, merges it and
// announces it. It sets the delta's priority, above the heads of the DAG and
// above the values that its keys have, and returns the new head. But it gets
// MaxInt64 at most: where a value has that priority already, the greater value
// wins, and where it has more, the old one does; unless the delta removes the old
// versions, which Set().Rmv finds.
// The delta may be empty: then the block only joins the heads. It fails with
// ErrInvalidBlock for a delta that no peer would accept, and with ErrTooLarge.
func (m *MerkleCRDT) Publish(ctx context.Context, d Delta) (Head, error) {
	ctx, end, err := m.begin(ctx)
	if err != nil {
		return Head{}, err
	}
	defer end()
	var b *block
	err = m.do(ctx, func(c *commit) error {
		ctx := context.WithoutCancel(ctx)
		if err := c.rank(ctx, d); err != nil {
			return err
		}
		err := c.publish(ctx, []Delta{d})
		if err == nil {
			b = c.made[0]
		}
		return err
	})
	if err != nil {
		return Head{}, err
	}
	return b.head(), nil
}

// rank sets the priority of a delta that is to be published.
func (c *commit) rank(ctx context.Context, d Delta) error {
	d.SetPriority(c.dag.height(d.GetDagName()))
	content, err := checkOwnDelta(d)
	if err != nil {
		return err
	}
	if err := c.set.loadAhead(ctx, appendKeys(nil, content.elements)); err != nil {
		return err
	}
	priority := content.priority
	for _, e := range content.elements {
		k, err := c.set.load(ctx, e.GetKey())
		if err != nil {
			return err
		}
		priority = max(priority, k.nextPriority())
	}
	d.SetPriority(priority)
	return nil
}

// IsProcessed tells whether a block has been merged. Of the CID it looks at the
// multihash alone.
func (m *MerkleCRDT) IsProcessed(ctx context.Context, c cid.Cid) (bool, error) {
	if err := m.enter(); err != nil {
		return false, err
	}
	defer m.leave()
	id, ok := blockIDIn(c.Hash())
	if !ok {
		return false, nil // no block has such a CID
	}
	return m.store.isMerged(ctx, id)
}

// Traverse calls visit with each block in from, which must not be empty, and
// below, each once, parents mostly before children. A node has the CID that it was
// linked by. Blocks that are not here are fetched. It ends at the first error, and
// returns it. visit is not called concurrently. The CIDs of the blocks visited are
// kept in memory.
func (m *MerkleCRDT) Traverse(ctx context.Context, from []cid.Cid, visit func(ipld.Node) error) error {
	ctx, end, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if len(from) == 0 {
		return errors.New("crdt: Traverse needs a block to begin with")
	}
	top := &block{}
	for _, c := range from {
		l, err := linkOf(c)
		if err != nil {
			return err
		}
		top.link(l)
	}
	t := &traversal{v0: top.v0}
	return m.blocks.traverse(ctx, top.links, t, func(id blockID, b *block, err error) error {
		if err != nil {
			return err
		}
		node, err := decodeNode(b.raw)
		if err == nil && t.link(id).v0 {
			err = node.SetCidBuilder(dag.V0CidPrefix())
		}
		if err != nil {
			return err
		}
		return visit(node)
	})
}

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
	// InSet tells whether a key has a value.
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

func (s setView) Merge(ctx context.Context, d Delta, id string) error {
	ctx, end, err := s.d.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	content, err := checkOwnDelta(d)
	if err != nil {
		return err
	}
	b, ok := parseDsKey(id)
	if !ok {
		return fmt.Errorf("crdt: %q is no block id", id)
	}
	return s.d.do(ctx, func(c *commit) error {
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
	Replace(ctx context.Context, old, new Head) error
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
	heads, _ := h.d.frontier.get()
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
	heads, _ := h.d.frontier.get()
	for _, head := range heads.list() {
		if match(head) {
			matching = append(matching, head)
			height = max(height, head.Height)
		}
	}
	return matching, height, nil
}

func (h headsView) Add(ctx context.Context, head Head) error { return h.replace(ctx, nil, head) }

func (h headsView) Replace(ctx context.Context, old, new Head) error {
	return h.replace(ctx, []cid.Cid{old.Cid}, new)
}

func (h headsView) replace(ctx context.Context, old []cid.Cid, new Head) error {
	if err := h.d.enter(); err != nil {
		return err
	}
	defer h.d.leave()
	ids, err := cidsToIDs(append(old, new.Cid))
	if err == nil {
		err = checkDAGName(new.DAGName)
	}
	if err != nil {
		return err
	}
	return h.d.do(ctx, func(c *commit) error {
		last := len(ids) - 1
		for _, id := range ids[:last] {
			c.dag.heads.remove(id)
		}
		c.dag.heads.add(ids[last], new.HeadValue)
		return nil
	})
}
