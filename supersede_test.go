package crdt

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

func superseding(o *Options) { o.SupersedingPuts = true }

// all returns what they were told.
func (h *toldHooks) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.events, " ")
}

func TestSupersedingPutsLeaveNoLosers(t *testing.T) {
	net := newTestNet()
	var here, there toldHooks
	r, peer := net.newReplica(t, superseding, here.set), net.newReplica(t, there.set)
	want := ""
	for i := range 20 {
		r.put("/k", fmt.Sprint(i))
		converge(t, r, peer)
		want += fmt.Sprintf(" +/k=%d", i)
	}
	for _, x := range []*replica{r, peer} {
		if n := len(x.rowsUnder("/s/l")) + len(x.rowsUnder("/s/t")); n != 0 {
			t.Errorf("%d losers and tombstones are left", n)
		}
	}
	for _, h := range []*toldHooks{&here, &there} {
		waitFor(t, "the hooks", func() bool { return len(h.all()) >= len(want)-1 })
		if got := h.all(); got != want[1:] {
			t.Errorf("the hooks were told %s", got)
		}
	}
}

// What was there before the option was set goes with the next Put, and so does what
// peers have put at the same time.
func TestSupersedingPutRemovesAllThatItSees(t *testing.T) {
	net := newTestNet()
	r, peer := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	for i := range 5 {
		r.put("/k", fmt.Sprint(i))
		peer.put("/k", fmt.Sprint("peer", i))
	}
	net.heal()
	converge(t, r, peer)
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: math.MaxUint64, Elements: oneElement("/k")}))
	r.opts.SupersedingPuts = true
	r.restart()
	r.put("/k", "last")
	if n := len(r.rowsUnder("/s/l")); n != 0 || r.get("/k") != "last" {
		t.Errorf("%d losers are left, and /k is %s", n, r.get("/k"))
	}
	net.split(0, 1)
	peer.put("/k", "beside")
	r.put("/k", "lesser")
	net.heal()
	if got := fmt.Sprint(converge(t, r, peer)); got != "map[/k:beside]" && got != "map[/k:lesser]" {
		t.Errorf("they hold %s", got)
	}
	if n := len(r.rowsUnder("/s/l")); n != 1 {
		t.Errorf("%d losers are left of two Puts side by side", n)
	}
}

// A batch may need several blocks for its tombstones. Whoever reads the last of them
// first sees each key change from one value to the other, and none go.
func TestSupersedingBatchShowsNoKeyAsGone(t *testing.T) {
	const n = 100
	net := newTestNet()
	var told toldHooks
	r := net.newReplica(t, superseding, func(o *Options) { o.MaxBatchDeltaSize = 5000 })
	peer := net.newReplica(t, told.set)
	for _, value := range []string{"old", "new"} {
		b, err := r.Batch(ctx)
		r.must(err)
		for i := range n {
			r.must(b.Put(ctx, ds.NewKey(fmt.Sprint("/", i)), []byte(value)))
		}
		r.must(b.Commit(ctx))
		converge(t, r, peer)
	}
	if made := len(r.node.own); made < 3 {
		t.Errorf("all is in %d blocks", made)
	}
	for _, c := range r.node.own {
		b, err := r.Datastore.blocks.getMerged(ctx, blockID(c.Hash()[2:]))
		r.must(err)
		put := appendKeys(nil, b.delta.elements)
		for _, key := range appendKeys(nil, b.delta.tombstones) {
			if !slices.Contains(put, key) {
				t.Errorf("block %s removes %s and does not put it", c, key)
			}
		}
	}
	waitFor(t, "the hooks", func() bool { return strings.Count(told.all(), "=new") == n })
	if strings.Contains(told.all(), "-") {
		t.Error("a key was gone in between")
	}
	if rows := r.rowsUnder("/s/l"); len(rows) != 0 {
		t.Errorf("%d losers are left", len(rows))
	}
}

// A value that fits without its tombstone fits with it.
func TestSupersedingPutOfAValueThatJustFits(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, superseding, func(o *Options) { o.MaxBlockSize = minBlockSize })
	for range 3 {
		r.put("/k", strings.Repeat("x", r.Datastore.blocks.elementBudget("", 1)-elementSize("/k", nil)))
	}
	if n := len(r.rowsUnder("/s/l")); n != 0 {
		t.Errorf("%d losers are left", n)
	}
	converge(t, r, net.newReplica(t, func(o *Options) { o.MaxBlockSize = minBlockSize }))
}

// A key that has a new value has not been gone: neither here nor at others, in whichever
// way the old one was removed. One that has an old value again has.
func TestHooksOfKeysThatAreReplaced(t *testing.T) {
	net := newTestNet()
	var here, there toldHooks
	r, peer := net.newReplica(t, here.set), net.newReplica(t, there.set)
	r.put("/k", "old")
	converge(t, r, peer)
	b, err := r.Batch(ctx)
	r.must(err)
	r.must(b.Delete(ctx, ds.NewKey("/k")))
	r.must(b.Put(ctx, ds.NewKey("/k"), []byte("new")))
	r.must(b.Commit(ctx))
	converge(t, r, peer)
	for _, h := range []*toldHooks{&here, &there} {
		waitFor(t, "the hooks", func() bool { return h.last() == "+/k=new" })
		if got := h.all(); got != "+/k=old +/k=new" {
			t.Errorf("the hooks were told %s", got)
		}
	}
}
