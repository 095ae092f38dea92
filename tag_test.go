package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

func TestEqualPutsAreDifferentVersions(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/flag", "on")
	a.del("/flag")
	b.put("/flag", "on")
	net.heal()
	if pairs := converge(t, a, b); pairs["/flag"] != "on" {
		t.Errorf("a Delete elsewhere, of an equal Put, removed this one: %v", pairs)
	}
}

func TestPutAfterGoingBackToACopyOfTheStore(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t)
	store := newAtomicStore().(*memoryStore)
	b := net.newReplicaOn(t, store)
	a.put("/x", "1")
	converge(t, a, b)
	b.must(b.Close())
	saved := maps.Clone(store.rows)
	b.open()
	b.put("/flag", "on")
	b.del("/flag")
	converge(t, a, b)
	b.must(b.Close())
	back := newAtomicStore().(*memoryStore)
	for k, v := range saved {
		if v != nil {
			back.apply(row{key: ds.RawKey(k), value: v})
		}
	}
	net.split(0, 1)
	b.store = back
	b.open()
	b.put("/flag", "on")
	net.heal()
	if pairs := converge(t, a, b); pairs["/flag"] != "on" {
		t.Errorf("an old Delete removed the new Put: %v", pairs)
	}
}

func TestPutOfAPairWhoseEqualWasRemovedFirst(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/flag", "on")
	d, err := a.Set().Rmv(ctx, "/flag")
	a.must(err)
	d.SetDagName("admin") // so that it comes without the Put
	removal, err := a.Publish(ctx, d)
	a.must(err)
	b.must(b.node.addRaw(removal.Cid, a.node.blocks[removal.Cid]))
	b.node.deliver(announcement(removal.Cid))
	b.awaitMerged(removal.Cid)
	b.put("/flag", "on")
	if got := b.get("/flag"); got != "on" {
		t.Errorf("Put returned nil, and Get gives %q", got)
	}
	net.heal()
	converge(t, a, b)
}

// tagOf is the tag in a block of the replica's.
func (r *replica) tagOf(c cid.Cid) string {
	r.t.Helper()
	id, err := blockIDOf(c)
	r.must(err)
	b, err := r.Datastore.blocks.parse(id, r.node.blocks[c])
	r.must(err)
	return string(b.delta.from.(*pbDelta).msg.GetTag())
}

func TestDeltasThatAddElementsHaveTags(t *testing.T) {
	r := newTestNet().newReplica(t)
	d, err := r.Set().Add(ctx, "/k", []byte("v"))
	r.must(err)
	tags := make(map[string]bool)
	for range 2 {
		head, err := r.Publish(ctx, d)
		r.must(err)
		tags[r.tagOf(head.Cid)] = true
	}
	for range 2 {
		r.put("/k", "v")
		tags[r.tagOf(r.head())] = true
	}
	if len(tags) != 4 {
		t.Errorf("two of the tags %q are the same", slices.Collect(maps.Keys(tags)))
	}
	for tag := range tags {
		if len(tag) != tagLength {
			t.Errorf("the tag %q", tag)
		}
	}
	r.del("/k")
	if tag := r.tagOf(r.head()); tag != "" {
		t.Errorf("tombstones have the tag %q", tag)
	}
	d.SetElements(nil)
	head, err := r.Publish(ctx, d)
	r.must(err)
	if tag := r.tagOf(head.Cid); tag != "" {
		t.Errorf("an empty delta has the tag %q", tag)
	}
}

// A delta of the user's own is left as it is. Published where it was before, it
// gets another priority.
func TestDeltasOfUsersHaveNoTags(t *testing.T) {
	node := newTestNet().node()
	m, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, nil, testOptions(), &MerkleCRDTOptions{DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d := &labelled{pbDelta: &pbDelta{}}
	d.SetElements([]*pb.Element{{Key: "/k", Value: []byte("v")}})
	first, err := m.Publish(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	d.SetPriority(1)
	b, err := m.blocks.build(d, nil)
	if err != nil || b.id.Cid() != first.Cid {
		t.Errorf("the block is not of the delta alone: %v", err)
	}
	if err := m.Heads().Replace(ctx, first, Head{Cid: unavailable(1), HeadValue: HeadValue{DAGName: "elsewhere"}}); err != nil {
		t.Fatal(err)
	}
	again, err := m.Publish(ctx, d)
	if err != nil || again.Height != 2 {
		t.Errorf("published again it is %s: %v", again, err)
	}
	top := Head{Cid: unavailable(2), HeadValue: HeadValue{Height: maxPriority}}
	if err := m.Heads().Replace(ctx, again, top); err != nil {
		t.Fatal(err)
	}
	above, err := m.Publish(ctx, d)
	if err != nil || above.Height != maxPriority {
		t.Errorf("published above all it is %s: %v", above, err)
	}
	if err := m.Heads().Replace(ctx, above, top); err != nil {
		t.Fatal(err)
	}
	if again, err := m.Publish(ctx, d); !errors.Is(err, ErrInvalidBlock) {
		t.Errorf("no greater priority is left, and published again it is %s: %v", again, err)
	}
}

func TestValueThatJustFits(t *testing.T) {
	for _, size := range []int{minBlockSize, 64 << 10, 2 << 20} {
		net := newTestNet()
		sized := func(o *Options) { o.MaxBlockSize, o.MaxBatchDeltaSize = size, 4<<20 }
		a, b := net.newReplica(t, sized), net.newReplica(t, sized)
		for range 5 {
			heads, _ := a.frontier.get()
			value := make([]byte, a.Datastore.blocks.room("", len(heads))-elementSize("/k", nil))
			a.must(a.Put(ctx, ds.NewKey("/k"), value))
		}
		batch, err := a.Batch(ctx)
		a.must(err)
		for i := range 5 {
			value := make([]byte, a.Datastore.blocks.room("", 1)-elementSize("/b/0", nil)-i)
			a.must(batch.Put(ctx, ds.NewKey(fmt.Sprint("/b/", i)), value))
		}
		a.must(batch.Commit(ctx))
		converge(t, a, b)
	}
}
