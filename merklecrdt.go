package crdt

import (
	"context"
	"errors"
	"fmt"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
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
	switch {
	case internal.DeltaFactory == nil:
		internal.DeltaFactory = newPBDelta
	case o.CheckpointEvery > 0:
		return nil, fmt.Errorf("crdt: Options.CheckpointEvery is %d: %w", o.CheckpointEvery, errOwnDeltas)
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
func (m *MerkleCRDT) Publish(ctx context.Context, d Delta) (head Head, err error) {
	ctx, end, err := m.begin(ctx)
	if err != nil {
		return Head{}, err
	}
	defer end(&err)
	var b *block
	err = m.committer.do(ctx, func(c *commit) error {
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
	if err == nil && content.snapshot != nil {
		err = fmt.Errorf("%w: checkpoints are made by CheckpointDAG", ErrInvalidBlock)
	}
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

// IsProcessed reports whether a block has been merged. Of the CID it looks at the
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
	mark, err := m.store.mark(ctx, id)
	return err == nil && mark.state.merged(), err
}

// Traverse calls visit with each block in from, which must not be empty, and
// below, each once, parents mostly before children. A node has the CID that it was
// linked by. Blocks that are not here are fetched, but for those below a checkpoint that
// was taken, or below which history was dropped: these are left out. It ends at the
// first error, and returns it. visit is not called concurrently. The CIDs of the blocks
// visited are kept in memory.
func (m *MerkleCRDT) Traverse(ctx context.Context, from []cid.Cid, visit func(ipld.Node) error) (err error) {
	ctx, end, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
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
			err = node.SetCidBuilder(merkledag.V0CidPrefix())
		}
		if err != nil {
			return err
		}
		return visit(node)
	})
}
