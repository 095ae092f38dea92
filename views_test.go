package crdt

import (
	"errors"
	"testing"

	ds "github.com/ipfs/go-datastore"
)

func TestSetViewBuildsDeltas(t *testing.T) {
	r := newTestNet().newReplica(t)
	s := r.Set()
	d, err := s.Rmv(ctx, "/k")
	if err != nil || !d.IsEmpty() {
		t.Errorf("removing what is not there: %v, %v", d, err)
	}
	d, err = s.Add(ctx, "/k", []byte("v"))
	if err != nil || d.IsEmpty() || d.Size() == 0 {
		t.Errorf("Add: %v, %v", d, err)
	}
	if ok, _ := s.InSet(ctx, "/k"); ok {
		t.Error("Add changed the set")
	}
	_, err = r.Publish(ctx, d)
	r.must(err)
	if v, err := s.Element(ctx, "/k"); string(v) != "v" || err != nil {
		t.Errorf("Element: %s, %v", v, err)
	}
	d, err = s.Rmv(ctx, "/k")
	r.must(err)
	_, err = r.Publish(ctx, d)
	r.must(err)
	if _, err := s.Element(ctx, "/k"); !errors.Is(err, ds.ErrNotFound) {
		t.Errorf("Element after removal: %v", err)
	}
	if _, err := s.Add(ctx, "/", nil); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("Add of the root key: %v", err)
	}
	if err := s.Merge(ctx, d, "/nonsense"); err == nil {
		t.Error("Merge took an id that names no block")
	}
}

// What is written on a head that was put back may be what was written before.
// To peers it must be news.
func TestSameWriteOnAHeadThatWasPutBackReplicates(t *testing.T) {
	net := newTestNet()
	a, b := &replica{t: t, store: newAtomicStore(), node: net.node(), opts: testOptions()}, net.newReplica(t)
	a.open()
	defer a.Close() // and no check of the store: Replace leaves blocks that no head covers
	a.put("/base", "1")
	base, _, err := a.Heads().List(ctx)
	a.must(err)
	a.put("/k", "v")
	a.del("/k")
	converge(t, a, b)
	tops, _, err := a.Heads().List(ctx)
	a.must(err)
	a.must(a.Heads().Replace(ctx, tops[0], base[0]))
	a.put("/k", "v")
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}
