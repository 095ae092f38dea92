package crdt

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// Priorities that no honest writer of ours gives, and old peers may: they add 1 to
// whatever a head claims.
var oddPriorities = []uint64{0, maxPriority - 1, maxPriority, 1 << 63, math.MaxUint64 - 1, math.MaxUint64}

func eachOddPriority(t *testing.T, test func(*testing.T, uint64)) {
	for _, p := range oddPriorities {
		t.Run(fmt.Sprint(p), func(t *testing.T) { test(t, p) })
	}
}

// winsByPuts puts values in both orders: the second may be the lesser one.
func (r *replica) winsByPuts(key string) {
	r.t.Helper()
	for _, v := range []string{"b", "c", "a"} {
		if r.put(key, v); r.get(key) != v {
			r.t.Fatalf("Put(%s) returned, and the value is %s", v, r.get(key))
		}
	}
}

func (r *replica) checkOwnPriorities() {
	r.t.Helper()
	for _, c := range r.node.own {
		b, err := r.Datastore.blocks.get(ctx, r.node, link{id: blockID(c.Hash()[2:])})
		r.must(err)
		if p := b.delta.priority; p == 0 || p > math.MaxInt64 {
			r.t.Errorf("a block of ours has the priority %d", p)
		}
	}
}

func TestPutWinsOverWhateverPriorityAPeerClaims(t *testing.T) {
	eachOddPriority(t, func(t *testing.T, p uint64) {
		net := newTestNet()
		r := net.newReplica(t)
		c := r.offer(net.node(), &pb.Delta{Priority: p, Elements: oneElement("/k")})
		r.awaitMerged(c)
		if head, ok := r.Heads().Get(ctx, c); r.get("/k") != "evil" || !ok || head.Height != p || r.InternalStats(ctx).MaxHeight != p {
			t.Errorf("/k is %q, the head %v", r.get("/k"), head)
		}
		r.winsByPuts("/k")
		r.winsByPuts("/other")
		r.restart()
		r.winsByPuts("/k")
		r.checkOwnPriorities()
		if got, want := fmt.Sprint(converge(t, r, net.newReplica(t))), "map[/k:a /other:a]"; got != want {
			t.Errorf("a newcomer has %v, want %v", got, want)
		}
	})
}

// The released module gives a block 1 more than its heads have, to which 2^64 is 0.
func TestOldPeersGoOnAboveTheGreatestPriority(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar, old := net.node(), net.node()
	for _, p := range []uint64{math.MaxInt64, math.MaxUint64} {
		top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: p, Elements: oneElement(fmt.Sprint("/x", p))}))
		for i := range uint64(3) {
			key := fmt.Sprintf("/%d+%d", p, i)
			top = r.offer(old, &pb.Delta{Priority: p + 1 + i, Elements: oneElement(key)}, top)
			r.awaitMerged(top)
			if r.get(key) != "evil" {
				t.Errorf("%s is %q", key, r.get(key))
			}
		}
	}
	if heads := r.InternalStats(ctx).Heads; len(heads) != 2 {
		t.Errorf("heads: %v", heads)
	}
}

// A Put that cannot outrank what is there removes it. What it can outrank stays.
func TestPutRemovesOnlyWhatItCannotOutrank(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	for i := range 20 {
		r.put("/k", fmt.Sprint(i))
	}
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: math.MaxInt64, Elements: oneElement("/unrelated")}, r.head()))
	removed := func(want int) {
		t.Helper()
		before := len(r.node.own)
		r.winsByPuts("/k")
		n := 0
		for _, c := range r.node.own[before:] {
			b, err := r.Datastore.blocks.get(ctx, r.node, link{id: blockID(c.Hash()[2:])})
			r.must(err)
			n += len(b.delta.tombstones)
		}
		if n != want {
			t.Errorf("3 Puts wrote %d tombstones, want %d", n, want)
		}
	}
	removed(2) // the first Put outranks all that is there
	removed(3)
	for _, p := range []uint64{math.MaxInt64, 1 << 63, math.MaxUint64} {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: p, Elements: oneElement("/k")}))
	}
	removed(4 + 2)
	r.del("/k")
	if got := r.get("/k"); got != "(none)" {
		t.Errorf("deleted, /k is %q", got)
	}
}

// Versions of an old store of which nothing is known but that they lost may be
// above the cap.
func TestPutRemovesOldVersionsOfUnknownPriority(t *testing.T) {
	net := newTestNet()
	node := net.node()
	version := func(p uint64, value string) cid.Cid {
		return node.forge(t, marshalDelta(t, &pb.Delta{Priority: p, Elements: []*pb.Element{{Key: "/k", Value: []byte(value)}}}))
	}
	r := net.openOldHeads(t, 1<<63, "z", version(1, "x"), version(math.MaxInt64, "y"), version(1<<63, "z"))
	r.winsByPuts("/k")
	if got := fmt.Sprint(converge(t, r, net.newReplica(t))); got != "map[/k:a]" {
		t.Errorf("a newcomer has %s", got)
	}
}

// openOldHeads opens a store of the released module in which some blocks are merged,
// which are heads and have versions of /k, with the winner.
func (n *testNet) openOldHeads(t *testing.T, priority uint64, value string, heads ...cid.Cid) *replica {
	t.Helper()
	priorityRow := binary.AppendUvarint(nil, priority+1) // the greatest wraps around
	o := &oldStore{Rows: []oldRow{{"/crdt_version", []byte{2}}, {"/s/k/k/v", []byte(value)}, {"/s/k/k/p", priorityRow}}}
	for _, c := range heads {
		name := blockID(c.Hash()[2:]).dsKey()
		o.Rows = append(o.Rows, oldRow{"/h" + name, binary.AppendUvarint(nil, priority)}, oldRow{"/b" + name, nil}, oldRow{"/s/s/k" + name, nil})
	}
	r := &replica{t: t, store: newAtomicStore(), node: n.node(), opts: testOptions()}
	silent(r.opts)
	o.fill(t, r.store, testNamespace)
	r.open()
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// Going back is part of it: what the old rows say is what they said before.
func TestOldStoreMayHaveAnyPriority(t *testing.T) {
	eachOddPriority(t, func(t *testing.T, p uint64) {
		net := newTestNet()
		c := net.node().forge(t, marshalDelta(t, &pb.Delta{Priority: p, Elements: []*pb.Element{{Key: "/k", Value: []byte("v1")}}}))
		r := net.openOldHeads(t, p, "v1", c)
		if head, ok := r.Heads().Get(ctx, c); r.get("/k") != "v1" || !ok || head.Height != p {
			t.Errorf("/k is %q, the head %v", r.get("/k"), head)
		}
		r.must(r.Close())
		r.must(Downgrade(ctx, r.store, testNamespace, r.node))
		row, err := r.store.Get(ctx, testNamespace.ChildString("s/k/k/p"))
		if r.must(err); string(row) != string(binary.AppendUvarint(nil, p+1)) {
			t.Errorf("the row of priority %d is %x", p, row)
		}
		r.open()
		r.winsByPuts("/k")
		r.winsByPuts("/unrelated")
		r.checkOwnPriorities()
	})
}

// A loser whose value is stored keeps its priority, even if it is the least.
func TestLoserKeepsAnyPriority(t *testing.T) {
	eachOddPriority(t, func(t *testing.T, p uint64) {
		for _, keep := range []bool{false, true} {
			l := &loser{version: version{id: testID(1), priority: p, value: []byte("v")}, known: true, keep: keep}
			got, err := decodeLoser(testID(1), l.encode())
			if err != nil || got.priority != p || got.unranked || got.known != keep {
				t.Errorf("priority %d is read as %+v: %v", p, got, err)
			}
		}
	})
	if l, err := decodeLoser(testID(1), (&loser{unranked: true}).encode()); err != nil || !l.unranked {
		t.Errorf("a loser of unknown priority is read as %+v: %v", l, err)
	}
}
