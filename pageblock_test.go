package crdt

import (
	"bytes"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// emptied makes a checkpoint of nothing, and has its page merged as a block, which it can be
// read as: a peer has announced it.
func (r *replica) emptied() (Head, blockID) {
	r.t.Helper()
	r.put("/k", "v")
	r.del("/k")
	c := r.checkpoint()
	page := r.known(c).snapshot.versions
	r.node.deliver(announcement(page.Cid()))
	r.awaitMerged(page.Cid())
	return c, page
}

func TestDropLeavesBlocksThatArePages(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.emptied()
	r.put("/k", "v")
	r.del("/k")
	c := r.checkpoint() // covers the page, and is as empty
	r.compact()
	r.checkPages(c)
}

// checkPages checks that all pages of a checkpoint are here.
func (r *replica) checkPages(c Head) {
	r.t.Helper()
	r.must(r.checkpointer.eachPage(ctx, r.known(c), func(n pageName) {
		if r.node.raw(n.id) == nil {
			r.t.Errorf("page %s is gone", n.Cid())
		}
	}))
}

func TestPurgeLeavesBlocksThatArePages(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.emptied()
	r.publishIn("other", "/other", "v")
	r.removeIn("other", "/other")
	c := r.checkpointIn("other")
	_, err := r.PurgeDAG(ctx, "")
	r.must(err)
	r.checkPages(c)
}

func TestSweepLeavesPagesThatAreBlocks(t *testing.T) {
	r := newTestNet().newReplica(t)
	empty, page := r.emptied()
	for range 4 { // of which the last ones alone stay
		r.put("/k", "v")
		r.checkpoint()
	}
	waitFor(t, "the first checkpoint to go", func() bool { return r.checkpointState(empty.Cid) > lastCheckpointState })
	r.restart() // what is being swept has been, then
	if r.node.raw(page) == nil {
		t.Error("a block of the history is gone")
	}
}

// A value that is too large to stand among others is a page. Here it is the bytes of a block.
// Many blockstores would remove one with the other.
func TestDropLeavesBlocksThatAreValues(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	c := r.offer(net.node(), &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/a", Value: bytes.Repeat([]byte("v"), 100<<10)}}})
	r.awaitMerged(c)
	id := idOf(c)
	r.must(r.Put(ctx, ds.NewKey("/b"), r.node.raw(id)))
	r.checkpoint()
	r.compact()
	if r.node.raw(id) == nil {
		t.Error("the block of a value is gone")
	}
}
