package crdt

import (
	"bytes"
	"context"
	"maps"
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// A hashDAG finds a block by its multihash, as boxo's blockstore does, and says
// when there is none.
type hashDAG struct{ *testNode }

func (d hashDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	id, err := blockIDOf(c)
	if err != nil {
		return nil, err
	}
	for _, v0 := range []bool{false, true} {
		if c := (link{id, v0}).Cid(); d.anybodyHas(c) {
			return d.testNode.Get(ctx, c)
		}
	}
	return d.testNode.Get(ctx, c)
}

// An exactDAG finds a block by the CID that it was added by, and says when there is
// none.
type exactDAG struct{ *testNode }

func (d exactDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if !d.anybodyHas(c) {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return d.testNode.Get(ctx, c)
}

func (node *testNode) anybodyHas(c cid.Cid) bool {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	for _, from := range node.net.nodes {
		if from.blocks[c] != nil && node.reaches(from) {
			return true
		}
	}
	return false
}

// An oldHistory has blocks with CIDs of version 0 at its bottom.
type oldHistory struct {
	bottom, middle cid.Cid // of version 0
	top            cid.Cid // of version 1
}

func (node *testNode) oldHistory(t *testing.T) oldHistory {
	put := func(p uint64, key, value string) *pb.Delta {
		return &pb.Delta{Priority: p, Elements: []*pb.Element{{Key: key, Value: []byte(value)}}}
	}
	var h oldHistory
	h.bottom = node.forgeV0(t, put(1, "/bottom", "1"))
	h.middle = node.forgeV0(t, put(2, "/k", "low"), h.bottom)
	h.top = node.forge(t, marshalDelta(t, put(3, "/k", "high")), h.middle)
	return h
}

var oldPairs = map[string]string{"/bottom": "1", "/k": "high"}

func v1(c cid.Cid) cid.Cid { return cid.NewCidV1(cid.DagProtobuf, c.Hash()) }

// onDAG is a DAG service on the network.
func (r *replica) onDAG(kind string) ipld.DAGService {
	switch kind {
	case "by multihash":
		return hashDAG{r.node}
	case "by CID":
		return exactDAG{r.node}
	}
	return r.node // by CID, and waits for what is not there
}

var dagKinds = []string{"by multihash", "by CID", "by CID, waiting"}

func TestHistoryWithCIDv0IsRead(t *testing.T) {
	for _, kind := range dagKinds {
		t.Run(kind, func(t *testing.T) {
			net := newTestNet()
			r := net.newReplica(t)
			r.reopenWith(r.onDAG(kind), nil)
			peer := net.node()
			h := peer.oldHistory(t)
			show := peer.hide(t, h.bottom)
			r.node.deliver(announcement(h.top))
			r.awaitMerged(h.middle)
			r.must(r.Close())
			r.reopenWith(r.onDAG(kind), nil)
			show()
			waitFor(t, "the history", func() bool { _, ok := r.Heads().Get(ctx, h.top); return ok })
			r.holds("with its whole history", oldPairs)
			r.checkForms(h)
			r.put("/new", "v")
			other := net.newReplica(t)
			if got := converge(t, r, other); len(got) != 3 {
				t.Errorf("the pairs are %v", got)
			}
		})
	}
}

// checkForms asks for blocks by all of their CIDs.
func (r *replica) checkForms(h oldHistory) {
	r.t.Helper()
	for _, c := range []cid.Cid{h.bottom, v1(h.bottom), cid.NewCidV1(cid.Raw, h.bottom.Hash()), h.top} {
		if ok, err := r.IsProcessed(ctx, c); !ok || err != nil {
			r.t.Errorf("IsProcessed(%s): %v, %v", c, ok, err)
		}
	}
	if _, ok := r.Heads().Get(ctx, cid.NewCidV0(h.top.Hash())); !ok {
		r.t.Error("the head is not found by its other CID")
	}
	for _, from := range []cid.Cid{h.top, h.middle} {
		var seen []cid.Cid
		err := r.Traverse(ctx, []cid.Cid{from}, func(nd ipld.Node) error { seen = append(seen, nd.Cid()); return nil })
		if err != nil || len(seen) < 2 || seen[len(seen)-2] != h.middle || seen[len(seen)-1] != h.bottom {
			r.t.Errorf("Traverse from %s: %v, %v", from, seen, err)
		}
	}
	if err := r.Traverse(ctx, nil, func(ipld.Node) error { return nil }); err == nil {
		r.t.Error("Traverse of no CIDs is no error")
	}
	var dot bytes.Buffer
	if err := r.DotDAG(ctx, &dot); err != nil || bytes.Count(dot.Bytes(), []byte("->")) != 2 {
		r.t.Errorf("DotDAG: %v\n%s", err, dot.String())
	}
	r.must(r.Repair(ctx))
}

func TestHeadWithCIDv0IsRead(t *testing.T) {
	for _, kind := range dagKinds[:2] { // the new block links to it by version 1
		for name, message := range map[string]func(cid.Cid) []byte{
			"one CID": cid.Cid.Bytes,
			"heads":   func(c cid.Cid) []byte { return announcement(c) },
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				net := newTestNet()
				r := net.newReplica(t)
				r.reopenWith(r.onDAG(kind), nil)
				h := net.node().oldHistory(t)
				r.node.deliver(message(h.middle))
				waitFor(t, "the head", func() bool { _, ok := r.Heads().Get(ctx, h.middle); return ok })
				r.put("/new", "v")
				r.must(r.Close())
				r.reopenWith(r.onDAG(kind), nil)
				r.must(r.Repair(ctx))
				r.holds("", map[string]string{"/bottom": "1", "/k": "low", "/new": "v"})
			})
		}
	}
}

// A value that is uncovered is read from its block, with no link at hand.
func TestValueInABlockWithCIDv0IsUncovered(t *testing.T) {
	for _, kind := range dagKinds[:2] {
		net := newTestNet()
		r := net.newReplica(t)
		r.reopenWith(r.onDAG(kind), nil)
		peer := net.node()
		h := peer.oldHistory(t)
		remove := peer.forge(t, marshalDelta(t, &pb.Delta{Priority: 4, Tombstones: []*pb.Element{tombstoneOf(t, "/k", h.top)}}), h.top)
		r.node.deliver(announcement(h.top))
		waitFor(t, "the history", func() bool { _, ok := r.Heads().Get(ctx, h.top); return ok })
		r.node.deliver(announcement(remove))
		r.awaitMerged(remove)
		if got := r.get("/k"); got != "low" {
			t.Errorf("%s: /k is %q", kind, got)
		}
	}
}

// Who links to honest blocks by CIDs that nobody has them by keeps nobody from
// getting them.
func TestBlockLinkedByTheWrongCIDIsFound(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) { o.DAGSyncerTimeout = patience })
	liar, honest := net.node(), net.node()
	first := honest.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/first")}))
	lie := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement("/lie")}), cid.NewCidV0(first.Hash()))
	top := honest.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement("/top")}), first)
	r.node.deliver(announcement(lie))
	r.awaitMerged(lie)
	r.node.deliver(announcement(top))
	waitFor(t, "both heads", func() bool { n, err := r.Heads().Len(ctx); return err == nil && n == 2 })
	want := map[string]string{"/first": "evil", "/lie": "evil", "/top": "evil"}
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("the pairs are %v", got)
	}
	if _, err := linkOf(cid.Undef); err == nil {
		t.Error("an undefined CID names a block")
	}
}

// A queue row of a store that knew no such links is read.
func TestQueueRowsAreRead(t *testing.T) {
	for _, w := range []wanted{{id: testID(1), height: 300}, {id: testID(1), height: 300, v0: true}, {id: testID(1)}} {
		if got := decodeWanted(w.id, w.encode()); got != w {
			t.Errorf("%+v is read as %+v", w, got)
		}
	}
	if got := decodeWanted(testID(1), []byte{7}); got != (wanted{id: testID(1), height: 7}) {
		t.Errorf("an older row is read as %+v", got)
	}
}
