package crdt

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
)

// A checkpointLie spoils an honest snapshot before it is published.
type checkpointLie struct {
	name       string
	wellFormed bool // a newcomer cannot see that it is one
	spoil      func(h *treeHarness, f *testSnapshot)
}

// anotherTree has a snapshot name a forged tree in the place of its own.
func anotherTree(forge func(h *treeHarness) subtree) func(*treeHarness, *testSnapshot) {
	return func(h *treeHarness, f *testSnapshot) {
		root := forge(h)
		f.alter = func(n *snapshotName) { n.versions, n.entries, n.bytes = root.id, root.totals.entries, root.bytes }
	}
}

// selfSimilar is a tree of a few pages that seems to have millions.
func selfSimilar(h *treeHarness) subtree {
	t := h.leaf(nil, versionAt("/a"))
	for range maxLevel {
		t = h.inner(nil, t, t)
	}
	return t
}

// lackFirst leaves the first block out of a cover, and what it has added.
func lackFirst(_ *treeHarness, f *testSnapshot) {
	gone := f.cover[slices.IndexFunc(f.cover, func(id blockID) bool { return !slices.Contains(f.links, id) })]
	f.cover = slices.DeleteFunc(f.cover, func(id blockID) bool { return id == gone })
	f.entries = slices.DeleteFunc(f.entries, func(e entry) bool { return e.id == gone })
}

var checkpointLies = []checkpointLie{
	{"unsorted", false, anotherTree(func(h *treeHarness) subtree { return h.leaf(nil, versionAt("/b"), versionAt("/a")) })},
	{"endless", false, anotherTree(endless)},
	{"self-similar", false, anotherTree(selfSimilar)},
	{"keys that blow up", false, anotherTree(keyBomb)},
	{"too many entries", false, func(_ *treeHarness, f *testSnapshot) { f.alter = func(n *snapshotName) { n.entries++ } }},
	{"too few bytes", false, func(_ *treeHarness, f *testSnapshot) { f.alter = func(n *snapshotName) { n.bytes-- } }},
	{"too many blocks", false, func(_ *treeHarness, f *testSnapshot) { f.alter = func(n *snapshotName) { n.blocks++ } }},
	{"no cover", false, func(_ *treeHarness, f *testSnapshot) { f.alter = func(n *snapshotName) { n.cover = n.versions } }},
	{"foreign ids", false, func(_ *treeHarness, f *testSnapshot) {
		f.entries = append(f.entries, entry{key: "/lie", id: testID(1), priority: 1 << 40, value: []byte("x")})
	}},
	{"a cover without a head", false, func(_ *treeHarness, f *testSnapshot) {
		f.cover = slices.DeleteFunc(f.cover, func(id blockID) bool { return id == f.links[0] })
		f.entries = slices.DeleteFunc(f.entries, func(e entry) bool { return e.id == f.links[0] })
	}},
	{"a cover without a block", true, lackFirst},
	{"a cover with one more", true, func(_ *treeHarness, f *testSnapshot) { f.cover = append(f.cover, testID(1)) }},
	{"another value", true, func(_ *treeHarness, f *testSnapshot) { f.entries[0].value = []byte("x") }},
	{"a version too few", true, func(_ *treeHarness, f *testSnapshot) { f.entries = f.entries[1:] }},
	{"a version too many", true, func(_ *treeHarness, f *testSnapshot) {
		f.entries = append(f.entries, entry{key: "/lie", id: f.cover[0], priority: 1 << 40, value: []byte("x")})
	}},
}

// A liar announces false checkpoints among replicas that all write, make checkpoints and
// drop history. They call each void and go on. So do newcomers, as far as they can see it.
func TestLiarAmongCheckpoints(t *testing.T) { synctest.Test(t, lieAboutCheckpoints) }

func lieAboutCheckpoints(t *testing.T) {
	n := 20
	if testing.Short() {
		n = 4
	}
	s := newLiesTest(t, n)
	for i, lie := range checkpointLies {
		s.writeAll(i)
		s.announce(i, lie)
	}
	s.writeAll(len(checkpointLies))
	converge(t, s.replicas...)
	last := s.replicas[1].checkpoint()
	for _, r := range s.replicas {
		r.awaitHeld(last)
	}
	if left, all := len(s.replicas[1].rowsUnder("/b")), len(s.replicas[0].rowsUnder("/b")); left >= all {
		t.Errorf("nothing was dropped: %d of %d blocks are left", left, all)
	}
	all := append(s.replicas, s.net.newReplica(t, silent), s.net.newReplica(t, silent, walkHistory))
	want := converge(t, all...)
	if len(want) != n+10 {
		t.Errorf("%d pairs", len(want))
	}
	for i, r := range all {
		who := fmt.Sprint("replica ", i)
		s.awaitJudged(who, r)
		s.checkNotBelieved(who, r)
	}
}

type liesTest struct {
	t        *testing.T
	net      *testNet
	liar     *testNode
	replicas []*replica // the first one drops nothing
	lies     []cid.Cid
}

func newLiesTest(t *testing.T, n int) *liesTest {
	s := &liesTest{t: t, net: newTestNet()}
	s.liar = s.net.node()
	for i := range n {
		s.replicas = append(s.replicas, s.net.newReplica(t, silent, every(2*n), func(o *Options) {
			if i > 0 {
				o.KeepHistory = 10 * time.Millisecond
			}
		}))
	}
	return s
}

// writeAll has every replica write, and remove what others have written.
func (s *liesTest) writeAll(round int) {
	for i, r := range s.replicas {
		r.put(fmt.Sprint("/own/", i), fmt.Sprint(round))
		r.put(fmt.Sprint("/shared/", (round+i)%10), fmt.Sprint(round, i))
		if i == 0 {
			r.del(fmt.Sprint("/shared/", round%10))
			r.put(fmt.Sprint("/shared/", round%10), "again")
		}
	}
}

// announce makes a lie of the history that the first replica has, and waits until all have
// judged it.
func (s *liesTest) announce(round int, lie checkpointLie) {
	s.t.Helper()
	honest := s.replicas[0]
	f := honest.snapshot("")
	lie.spoil(&treeHarness{s.t, s.liar, &blockStore{service: s.liar, maxSize: 2 << 20}, honestSizes}, f)
	c := f.publish(s.t, s.liar)
	s.lies = append(s.lies, c)
	if err := s.liar.Broadcast(ctx, announcement(c)); err != nil {
		s.t.Fatal(err)
	}
	s.writeAll(round)
	for i, r := range s.replicas {
		waitFor(s.t, fmt.Sprintf("replica %d to judge %s", i, lie.name), func() bool { return r.hasJudged(c) })
	}
	if lie.wellFormed {
		return
	}
	r := s.net.newReplica(s.t, silent)
	r.node.deliver(announcement(c))
	waitFor(s.t, "a newcomer to judge "+lie.name, func() bool { return r.hasJudged(c) })
	waitFor(s.t, "a newcomer to catch up", func() bool { _, pending := r.frontier.tips(); return len(pending) == 0 && len(r.pairs()) > 0 })
	s.checkNotBelieved("a newcomer", r)
	r.must(r.Close())
}

// hasJudged reports whether a replica has merged a false checkpoint, and calls it void; or it
// need not be judged, as a checkpoint that was made meanwhile covers it.
func (r *replica) hasJudged(c cid.Cid) bool {
	m, err := r.checkpointer.store.mark(ctx, idOf(c))
	r.must(err)
	cp := r.frontier.checkpoints()[idOf(c)]
	return m.state == complete && (cp == nil || cp.state == checkpointVoid)
}

// checkNotBelieved checks that nothing rests on a lie.
func (s *liesTest) checkNotBelieved(who string, r *replica) {
	s.t.Helper()
	known := r.frontier.checkpoints()
	for _, c := range s.lies {
		if cp := known[idOf(c)]; cp != nil && (cp.state.held() || cp.state.hides()) {
			s.t.Errorf("%s believes a lie, which is in state %d", who, cp.state)
		}
	}
	if got := r.get("/lie"); got != "(none)" {
		s.t.Errorf("%s has /lie: %s", who, got)
	}
}

// awaitJudged waits until a replica that has all blocks knows who is right.
func (s *liesTest) awaitJudged(who string, r *replica) {
	s.t.Helper()
	waitFor(s.t, who+" to judge all checkpoints", func() bool {
		for _, cp := range r.frontier.checkpoints() {
			if cp.state == checkpointSeen {
				return false
			}
		}
		return true
	})
}
