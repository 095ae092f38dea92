package crdt

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// An interruptedDAG does something in the middle of a request for a block.
type interruptedDAG struct {
	*testNode
	next atomic.Pointer[interruption]
}

type interruption struct {
	at cid.Cid
	do func()
}

func (d *interruptedDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if i := d.next.Load(); i != nil && c == i.at && d.next.CompareAndSwap(i, nil) {
		i.do()
	}
	return d.testNode.Get(ctx, c)
}

// While Publish reads an older value, the block that it would have made is
// merged: another replica published the same.
func TestPublishLeavesTheSameBlockOfAnotherReplicaAlone(t *testing.T) {
	r := newTestNet().newReplica(t)
	dagSyncer := &interruptedDAG{testNode: r.node}
	r.reopenWith(dagSyncer, nil)
	r.put("/k", "1")
	loser := r.head()
	r.put("/k", "2")
	d, err := r.Set().Rmv(ctx, "/k")
	r.must(err)
	versions, err := d.GetTombstones()
	r.must(err)
	d.SetTombstones(versions[1:]) // the winner: this uncovers the loser

	d.SetPriority(3)
	heads, _ := r.frontier.tips()
	same, err := r.blocks.build(d, heads.of(""))
	r.must(err)
	r.must(r.node.addRaw(same.id.Cid(), same.raw))
	merged := false
	dagSyncer.next.Store(&interruption{loser, func() {
		merged = true
		r.must(r.committer.do(ctx, func(c *commit) error { return c.merge(ctx, same) }))
	}})
	_, err = r.Publish(ctx, d)
	r.must(err)
	if raw, _, _ := r.node.find(same.id.Cid()); raw == nil || !merged {
		t.Errorf("other block merged: %v, still there: %v", merged, raw != nil)
	}
}

func TestPublishRunsHooksOnce(t *testing.T) {
	var calls atomic.Int32
	r := newTestNet().newReplica(t, func(o *Options) { o.PutHook = func(ds.Key, []byte) { calls.Add(1) } })
	d, err := r.Set().Add(ctx, "/k", []byte("v"))
	r.must(err)
	_, err = r.Publish(ctx, d)
	r.must(err)
	if n := calls.Load(); n != 1 {
		t.Errorf("the hook ran %d times", n)
	}
}

// What is published wins over what its keys have from another DAG, as a Put
// does, up to the greatest priority: then the greater value does.
func TestPublishWinsOverOtherDAGs(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	publish := func(value string) Head {
		d, err := r.Set().Add(ctx, "/k", []byte(value))
		r.must(err)
		d.SetDagName("low")
		h, err := r.Publish(ctx, d)
		r.must(err)
		return h
	}
	for i := range 3 {
		r.put("/k", fmt.Sprint("z", i))
	}
	if h := publish("a"); h.Height != 4 || r.get("/k") != "a" {
		t.Errorf("published a as %s, and Get gives %q", h, r.get("/k"))
	}
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: maxPriority, DagName: "top", Elements: []*pb.Element{{Key: "/k", Value: []byte("m")}}}))
	if h := publish("b"); h.Height != maxPriority || r.get("/k") != "m" {
		t.Errorf("published b as %s, and Get gives %q", h, r.get("/k"))
	}
	if publish("n"); r.get("/k") != "n" {
		t.Errorf("published n, and Get gives %q", r.get("/k"))
	}
}

func TestNamedDAGs(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	publish := func(name, key, value string) Head {
		d, err := a.Set().Add(ctx, key, []byte(value))
		a.must(err)
		d.SetDagName(name)
		h, err := a.Publish(ctx, d)
		a.must(err)
		return h
	}
	a.put("/main", "1")
	for i := range 5 {
		if h := publish("one", "/one", fmt.Sprint(i)); h.Height != uint64(i+1) || h.DAGName != "one" {
			t.Errorf("head %s", h)
		}
	}
	publish("two", "/two", "2")
	if got := converge(t, a, b); len(got) != 3 || got["/one"] != "4" {
		t.Errorf("pairs: %v", got)
	}
	for _, r := range []*replica{a, b} {
		n, err := r.Heads().LenDAG(ctx, "one")
		all, _ := r.Heads().Len(ctx)
		list, height, _ := r.Heads().ListDAG(ctx, "one")
		if err != nil || n != 1 || all != 3 || height != 5 || len(list) != 1 {
			t.Errorf("heads of one: %d of %d, height %d: %v", n, all, height, err)
		}
		if h, ok := r.Heads().Get(ctx, list[0].Cid); !ok || h != list[0] {
			t.Errorf("Get gives %v", h)
		}
	}
	d := newPBDelta()
	d.SetDagName("a/b")
	if _, err := a.Publish(ctx, d); err == nil {
		t.Error("a DAG named a/b was accepted")
	}

	blocks := len(a.node.blocks)
	n, err := a.PurgeDAG(ctx, "one")
	if n != 5 || err != nil || len(a.node.blocks) != blocks-5 {
		t.Errorf("PurgeDAG removed %d blocks of 5: %v", n, err)
	}
	if n, err := a.PurgeDAG(ctx, "one"); n != 0 || err != nil {
		t.Errorf("purged again: %d, %v", n, err)
	}
	if got := a.get("/one"); got != "(none)" {
		t.Errorf("after the purge /one is %q", got)
	}
}
