package crdt

import (
	"context"
	"fmt"
	"testing"

	ds "github.com/ipfs/go-datastore"
	ipld "github.com/ipfs/go-ipld-format"
)

// An insideDAG also keeps its blocks in the store of its replica, where a
// blockstore at some place would have them.
type insideDAG struct {
	*testNode
	store ds.Datastore
	place ds.Key
}

func (d insideDAG) keep(ctx context.Context, nodes ...ipld.Node) error {
	for _, n := range nodes {
		id, err := blockIDOf(n.Cid())
		if err == nil {
			err = d.store.Put(ctx, d.place.ChildString("blocks").ChildString(id.String()), n.RawData())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d insideDAG) Add(ctx context.Context, n ipld.Node) error {
	if err := d.testNode.Add(ctx, n); err != nil {
		return err
	}
	return d.keep(ctx, n)
}

func (d insideDAG) AddMany(ctx context.Context, nodes []ipld.Node) error {
	if err := d.testNode.AddMany(ctx, nodes); err != nil {
		return err
	}
	return d.keep(ctx, nodes...)
}

// Blocks may lie inside the namespace, below the rows of any kind. None of them
// passes for such a row.
func TestBlocksInsideTheNamespace(t *testing.T) {
	for _, place := range []string{"", "/b", "/h", "/a", "/q", "/p", "/r", "/s", "/d", "/bs", "/w", "/crdt_version"} {
		t.Run(place, func(t *testing.T) {
			r := newTestNet().newReplica(t)
			inside := insideDAG{r.node, r.store, ds.RawKey(testNamespace.String() + place)}
			r.reopenWith(inside, nil)
			for i := range 5 {
				r.put("/k", fmt.Sprint(i))
			}
			gap, err := blockIDOf(r.head())
			r.must(err)
			r.put("/k", "last")
			d, err := r.Set().Add(ctx, "/named", []byte("v"))
			r.must(err)
			d.SetDagName("dag")
			_, err = r.Publish(ctx, d)
			r.must(err)
			heads := r.InternalStats(ctx).Heads
			r.reopenWith(inside, nil)
			if s := r.InternalStats(ctx); fmt.Sprint(s.Heads) != fmt.Sprint(heads) || s.QueuedJobs > 0 {
				t.Errorf("opened with %v, want the heads %v", s, heads)
			}

			// Forget a block in the middle and its version.
			keys := r.Datastore.store.keys
			for _, k := range []ds.Key{keys.block(gap), keys.loser("/k", gap)} {
				r.must(r.store.Delete(ctx, k))
			}
			r.MarkDirty(ctx)
			r.must(r.Repair(ctx))
			if !r.state(gap.Cid()).merged() || r.IsDirty(ctx) {
				t.Error("the gap was not found")
			}
		})
	}
}
