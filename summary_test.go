package crdt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// randomSummaries makes some of randomDeltas summaries. What these claim is seldom
// true: they name blocks that give the key nothing, or never come, or themselves.
func randomSummaries(rng *rand.Rand, n int) []*block {
	blocks := randomDeltas(rng, n)
	for _, b := range blocks {
		if rng.IntN(2) == 0 {
			continue
		}
		d := b.delta
		d.summary, d.claims, d.elements = true, d.elements, nil
		for _, e := range d.claims {
			e.Id, e.Priority = testID(rng.IntN(n+2)).dsKey(), pick[uint64](rng, 1, 2, 3, maxPriority, 1<<63)
		}
	}
	return blocks
}

func TestSummariesMergeInAnyOrder(t *testing.T) { mergeInAnyOrder(t, randomSummaries) }

// Claims leave nothing behind once the blocks that they are about are merged.
func TestSetForgetsClaims(t *testing.T) {
	for seed := range uint64(50) {
		h := newSetHarness()
		for _, b := range randomSummaries(rand.New(rand.NewPCG(seed, 1)), 20) {
			h.commit(t, b)
		}
		for e, err := range h.store.rowsUnder(ctx, h.store.keys.claims, false, 0) {
			id, ok := parseBlockID(strings.Split(e.Key, "/")[1])
			if err != nil || !ok || h.merged[id] != nil {
				t.Fatalf("seed %d: claim %s is left: %v", seed, e.Key, err)
			}
		}
	}
}

// summaryOf makes the summary of what a replica holds, with its heads as links.
func (r *replica) summaryOf() (*pb.Delta, []cid.Cid) {
	r.t.Helper()
	heads, height, err := r.Heads().ListDAG(ctx, "")
	r.must(err)
	d := &pb.Delta{Priority: height + 1, Snapshot: true, SnapshotTotal: 1, SnapshotId: []byte("id")}
	var links []cid.Cid
	for _, h := range heads {
		links = append(links, h.Cid)
	}
	for key := range r.pairs() {
		d.Elements = append(d.Elements, r.claimsOf(key)...)
	}
	return d, links
}

// claimsOf are the live versions of a key as a summary has them.
func (r *replica) claimsOf(key string) (claims []*pb.Element) {
	r.t.Helper()
	c := newSetChange(r.Datastore.store, false, false)
	ids, err := c.live(ctx, key, 0)
	r.must(err)
	for _, id := range ids {
		raw, err := r.node.Get(ctx, id.Cid())
		r.must(err)
		b, err := r.Datastore.blocks.decode(id, raw.RawData())
		r.must(err)
		v := b.versions()[key]
		claims = append(claims, &pb.Element{Key: key, Id: id.dsKey(), Priority: v.priority, Value: v.value})
	}
	return claims
}

// summaryTest has two replicas: one has the history, the other its summary alone.
type summaryTest struct {
	net        *testNet
	old, young *replica
	summary    cid.Cid
}

// newSummaryTest has a history written, and a summary of it made.
func newSummaryTest(t *testing.T, write func(r *replica)) *summaryTest {
	s := &summaryTest{net: newTestNet()}
	s.young, s.old = s.net.newReplica(t), s.net.newReplica(t)
	s.net.split(1)
	write(s.old)
	delta, links := s.old.summaryOf()
	author := newTestNet().node()
	s.summary = author.forge(t, marshalDelta(t, delta), links...)
	for _, r := range []*replica{s.young, s.old} {
		r.must(r.node.addRaw(s.summary, author.blocks[s.summary]))
		r.node.deliver(announcement(s.summary))
		r.awaitMerged(s.summary)
	}
	return s
}

// join lets the two talk.
func (s *summaryTest) join(t *testing.T) map[string]string {
	t.Helper()
	s.net.heal()
	return converge(t, s.old, s.young)
}

func concurrentHistory(r *replica) {
	r.put("/a", "1")
	r.put("/a", "2")
	r.put("/gone", "x")
	r.del("/gone")
	for i := range 9 {
		r.put(fmt.Sprint("/many/", i), "v")
	}
}

func TestSummaryStandsForTheHistory(t *testing.T) {
	s := newSummaryTest(t, concurrentHistory)
	if got, want := fmt.Sprint(s.young.pairs()), fmt.Sprint(s.old.pairs()); got != want {
		t.Fatalf("the summary gives %s, the history %s", got, want)
	}
	for _, r := range []*replica{s.old, s.young} {
		if r.head() != s.summary || r.state(s.summary) != complete {
			t.Errorf("the head is %s, not the summary", r.head())
		}
	}
	if got := len(s.young.rowsUnder("/b")); got != 1 {
		t.Errorf("the newcomer has %d blocks", got)
	}
}

func TestWritesOnASummary(t *testing.T) {
	s := newSummaryTest(t, concurrentHistory)
	s.young.del("/many/0")
	s.young.put("/many/1", "young")
	s.old.del("/a")
	s.old.put("/many/2", "old")
	s.young.restart()
	pairs := s.join(t)
	want := map[string]string{"/many/1": "young", "/many/2": "old"}
	for i := 3; i < 9; i++ {
		want[fmt.Sprint("/many/", i)] = "v"
	}
	if fmt.Sprint(pairs) != fmt.Sprint(want) {
		t.Errorf("has %v, want %v", pairs, want)
	}
	// A Delete uncovers nothing, and removes losers, whose values are not in blocks.
	s.young.put("/many/3", "more")
	s.young.restart()
	s.old.del("/many/4")
	s.young.del("/many/3")
	if pairs := converge(t, s.old, s.young); pairs["/many/3"] != "" || pairs["/many/4"] != "" {
		t.Errorf("has %v", pairs)
	}
}

// claimOn is an element of a summary.
func claimOn(c cid.Cid, key, value string, priority uint64) *pb.Element {
	id, err := blockIDOf(c)
	if err != nil {
		panic(err)
	}
	return &pb.Element{Key: key, Id: id.dsKey(), Priority: priority, Value: []byte(value)}
}

// permute calls f with every order of the numbers below n.
func permute(n int, f func(order []int)) {
	var choose func(chosen []int)
	choose = func(chosen []int) {
		if len(chosen) == n {
			f(slices.Clone(chosen))
			return
		}
		for i := range n {
			if !slices.Contains(chosen, i) {
				choose(append(chosen, i))
			}
		}
	}
	choose(nil)
}

// Summaries, true ones and lies, the blocks that they tell of, and a tombstone:
// at each step the pairs are those of the plain model, whatever came first, and
// with a restart somewhere.
func TestClaimsInEveryOrder(t *testing.T) {
	liar := newTestNet().node()
	forge := func(d *pb.Delta, links ...cid.Cid) cid.Cid { return liar.forge(t, marshalDelta(t, d), links...) }
	own := forge(&pb.Delta{Priority: 3, Elements: []*pb.Element{{Key: "/k", Value: []byte("own")}}})
	other := forge(&pb.Delta{Priority: 1, DagName: "other", Elements: []*pb.Element{{Key: "/other", Value: []byte("o")}}})
	blocks := []cid.Cid{own, other,
		forge(&pb.Delta{Priority: 4, Snapshot: true, Elements: []*pb.Element{
			claimOn(own, "/k", "own", 3), claimOn(other, "/k", "a lie", 9), claimOn(own, "/j", "a lie", 1),
			{Key: "/k", Id: "/nonsense", Priority: 9, Value: []byte("void")}, claimOn(own, "/void", "void", 0),
		}}, own, unavailable(1)),
		forge(&pb.Delta{Priority: 4, Snapshot: true, Elements: []*pb.Element{
			claimOn(own, "/k", "zzz", math.MaxUint64), claimOn(other, "/j", "b", 2), claimOn(other, "/k", "a lie", 1),
			claimOn(unavailable(1), "/never", "comes", 2),
		}}, own),
		forge(&pb.Delta{Priority: 1, DagName: "admin", Tombstones: []*pb.Element{tombstoneOf(t, "/k", own)}}),
	}
	permute(len(blocks), func(order []int) {
		r := newTestNet().newReplica(t)
		model := make(modelSet)
		for step, i := range order {
			r.must(r.node.addRaw(blocks[i], liar.blocks[blocks[i]]))
			r.node.deliver(announcement(blocks[i]))
			r.awaitMerged(blocks[i])
			b, err := r.Datastore.blocks.parse(blockID(blocks[i].Hash()[2:]), liar.blocks[blocks[i]])
			r.must(err)
			if model.merge(b); !maps.Equal(r.pairs(), model.pairs()) {
				t.Fatalf("order %v, step %d: has %v, want %v", order, step, r.pairs(), model.pairs())
			}
			if step == order[0] {
				r.restart()
			}
		}
		r.put("/k", "last") // wins over every claim
		if got := r.get("/k"); got != "last" {
			t.Fatalf("order %v: a Put on top gives %q", order, got)
		}
		r.del("/k")
		r.del("/j")
		if pairs := r.pairs(); len(pairs) != 2 {
			t.Fatalf("order %v: after Deletes there is %v", order, pairs)
		}
	})
}

func TestSummaryAboveWhatIsPending(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	missing := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/missing")}))
	raw := liar.blocks[missing]
	r.must(liar.Remove(ctx, missing))
	root := r.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement("/root")}, missing)
	r.awaitMerged(root)
	s := r.offer(liar, &pb.Delta{Priority: 3, Snapshot: true}, root, unavailable(7))
	r.awaitMerged(s)
	if heads, pendingHeads := r.frontier.tips(); len(heads) != 1 || len(pendingHeads) != 0 || r.head() != s {
		t.Errorf("heads %v, pending heads %v", heads.list(), pendingHeads.list())
	}
	r.restart()
	r.must(liar.addRaw(missing, raw))
	r.node.deliver(announcement(missing))
	waitFor(t, "what was pending to be complete", func() bool { return r.state(root) == complete })
	if r.head() != s || r.get("/missing") == "(none)" {
		t.Errorf("the heads are %v", r.InternalStats(ctx).Heads)
	}
}

// A replica that has not heard of the summary announces what it sums up.
func TestSummedBlockThatComesLater(t *testing.T) {
	s := newSummaryTest(t, concurrentHistory)
	b, err := s.old.Datastore.blocks.fetchBlock(ctx, link{id: blockID(s.summary.Hash()[2:])})
	s.old.must(err)
	s.young.restart()
	s.net.heal()
	s.young.node.deliver(announcement(b.summed[0].Cid()))
	waitFor(t, "the history", func() bool { return s.young.state(b.summed[0].Cid()) == complete })
	if s.young.head() != s.summary || len(s.young.rowsUnder("/s/c")) != 0 {
		t.Errorf("the heads are %v, and %d claims are left", s.young.InternalStats(ctx).Heads, len(s.young.rowsUnder("/s/c")))
	}
	s.join(t)
}

// What walks down stops at a summary, but where the history has been merged.
func TestNobodyGoesBelowASummary(t *testing.T) {
	s := newSummaryTest(t, concurrentHistory)
	for r, want := range map[*replica]int{s.young: 1, s.old: 14} {
		seen := 0
		r.must(r.Traverse(ctx, []cid.Cid{s.summary}, func(ipld.Node) error { seen++; return nil }))
		if seen != want {
			t.Errorf("Traverse saw %d blocks, not %d", seen, want)
		}
		r.MarkDirty(ctx)
		r.must(r.Repair(ctx))
		if r.IsDirty(ctx) || len(r.rowsUnder("/b")) != want {
			t.Errorf("after a repair, there are %d blocks", len(r.rowsUnder("/b")))
		}
		var dot bytes.Buffer
		r.must(r.DotDAG(ctx, &dot))
		if got := strings.Count(dot.String(), "label"); got != want {
			t.Errorf("DotDAG shows %d blocks, not %d", got, want)
		}
	}
	// Nor do skip links lead below it, not after a restart either.
	for range 40 {
		s.old.put("/more", "v")
	}
	s.old.restart()
	for range 40 {
		s.old.put("/more", "v")
	}
	s.join(t)
	if got := len(s.young.rowsUnder("/b")); got != 81 {
		t.Errorf("the newcomer has %d blocks", got)
	}
}

// goBack has the store turned back, and opens it again: the old module has not.
func (r *replica) goBack() {
	r.t.Helper()
	r.must(r.Close())
	r.must(Downgrade(ctx, r.store, testNamespace, r.node))
	r.open()
}

func TestClaimsOutliveADowngrade(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	own := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/own", Value: []byte("v")}}}))
	s := r.offer(liar, &pb.Delta{Priority: 2, Snapshot: true, Elements: []*pb.Element{
		claimOn(own, "/own", "v", 1), claimOn(own, "/lie", "x", 9), claimOn(unavailable(1), "/gone", "x", 1),
	}}, own)
	r.awaitMerged(s)
	r.goBack()
	r.del("/gone")
	if pairs := r.pairs(); len(pairs) != 2 {
		t.Errorf("after a Delete of /gone there is %v", pairs)
	}
	tombstone := r.head()
	r.node.deliver(announcement(own))
	r.awaitMerged(own)
	if pairs := r.pairs(); len(pairs) != 1 || pairs["/own"] != "v" || r.head() != tombstone {
		t.Errorf("with the block that was claimed about there is %v, and the heads are %v", pairs, r.InternalStats(ctx).Heads)
	}
}

// Between a downgrade and New, the old module merged the blocks that were claimed
// about, and a tombstone.
func TestClaimsThatTheOldModuleSettled(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	own := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 3, Elements: []*pb.Element{{Key: "/own", Value: []byte("v")}, {Key: "/both", Value: []byte("v")}, {Key: "/dead", Value: []byte("v")}, {Key: "/rank", Value: []byte("v")}}}))
	gone := unavailable(1)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 4, Snapshot: true, Elements: []*pb.Element{
		claimOn(own, "/own", "a lie", 9), claimOn(own, "/lie", "x", 9), claimOn(own, "/both", "a lie", 9),
		claimOn(gone, "/gone", "x", 1), claimOn(gone, "/both", "x", 2), claimOn(gone, "/left", "x", 1),
		claimOn(own, "/dead", "v", 3), claimOn(gone, "/dead", "x", 1), claimOn(own, "/rank", "v", 1), claimOn(gone, "/rank", "x", 2),
	}}, own))
	removes := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Tombstones: []*pb.Element{tombstoneOf(t, "/gone", gone), tombstoneOf(t, "/both", gone), tombstoneOf(t, "/dead", own)}}))
	r.must(r.Close())
	r.must(Downgrade(ctx, r.store, testNamespace, r.node))
	put := func(row string, value []byte) { r.must(r.store.Put(ctx, testNamespace.Child(ds.NewKey(row)), value)) }
	for _, c := range []cid.Cid{own, removes} {
		r.must(r.node.addRaw(c, liar.blocks[c]))
		put("/b/"+rowName(t, c), []byte{})
		put("/h/"+rowName(t, c), binary.AppendUvarint(nil, 1))
	}
	put("/s/t/gone/"+rowName(t, gone), []byte{})
	put("/s/t/both/"+rowName(t, gone), []byte{})
	put("/s/t/dead/"+rowName(t, own), []byte{})
	put("/s/k/dead/v", []byte("x"))
	put("/s/k/dead/p", binary.AppendUvarint(nil, 1+1))
	put("/s/k/rank/v", []byte("v"))
	put("/s/k/rank/p", binary.AppendUvarint(nil, 3+1))
	r.open()
	if got := r.pairs(); !maps.Equal(got, map[string]string{"/own": "v", "/both": "v", "/left": "x", "/dead": "x", "/rank": "v"}) {
		t.Errorf("there is %v", got)
	}
	for _, key := range []string{"/left", "/both", "/dead", "/rank"} {
		r.del(key)
	}
	if got := r.pairs(); !maps.Equal(got, map[string]string{"/own": "v"}) {
		t.Errorf("after the Deletes there is %v", got)
	}
}

// rowName is the last part of the names of a block's rows.
func rowName(t *testing.T, c cid.Cid) string {
	t.Helper()
	id, err := blockIDOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// A summary that comes while a block that it tells of is being purged brings
// nothing back that another DAG has removed.
func TestSummaryBesideAPurge(t *testing.T) {
	r := newTestNet().newReplica(t)
	dagSyncer := &interruptedDAG{testNode: r.node}
	r.reopenWith(dagSyncer, nil)
	r.put("/k", "v")
	put := r.head()
	rmv, err := r.Set().Rmv(ctx, "/k")
	r.must(err)
	rmv.SetDagName("x")
	_, err = r.Publish(ctx, rmv)
	r.must(err)
	liar := r.node.net.node()
	r.must(liar.addRaw(put, r.node.blocks[put]))
	s := liar.forge(t, marshalDelta(t, &pb.Delta{DagName: "y", Priority: 1, Snapshot: true, Elements: []*pb.Element{claimOn(put, "/k", "v", 1)}}))
	b, err := r.Datastore.blocks.decode(blockID(s.Hash()[2:]), liar.blocks[s])
	r.must(err)
	dagSyncer.next.Store(&interruption{put, func() { // the purge has found it, and will forget it when it is read again
		dagSyncer.next.Store(&interruption{put, func() {
			_ = r.committer.do(ctx, func(c *commit) error { return c.merge(ctx, b) })
		}})
	}})
	r.purgeDAG("", 1)
	for _, c := range []cid.Cid{s, put} {
		r.node.deliver(announcement(c))
		r.awaitMerged(c)
		if got := r.get("/k"); got != "(none)" {
			t.Errorf("with %s, /k is %q", c, got)
		}
	}
}

// A block about which more was claimed than one commit drops.
func TestManyClaimsOnOneBlock(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	own := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/own")}))
	for part := range 3 {
		d := &pb.Delta{Priority: 1, Snapshot: true}
		for i := range maxDropped/2 + 1 {
			d.Elements = append(d.Elements, claimOn(own, fmt.Sprintf("/%d/%d", part, i), "lie", 5))
		}
		r.awaitMerged(r.offer(liar, d))
	}
	r.node.deliver(announcement(own))
	r.awaitMerged(own)
	if pairs := r.pairs(); len(pairs) != 1 || len(r.rowsUnder("/s/c")) != 0 {
		t.Errorf("%d pairs and %d claims are left", len(pairs), len(r.rowsUnder("/s/c")))
	}
}

// Whoever foresees the block of a Delete can claim something about it.
func TestDeleteWhoseBlockWasClaimed(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	r.put("/k", "v")
	put := r.head()
	d := newPBDelta()
	d.SetPriority(2)
	d.SetTombstones([]*pb.Element{tombstoneOf(t, "/k", put)})
	b, err := r.Datastore.blocks.build(d, []blockID{blockID(put.Hash()[2:])})
	r.must(err)
	defer func() {
		if r.state(b.id.Cid()) != unknown {
			t.Error("the Delete has made the block that was foreseen")
		}
	}()
	r.awaitMerged(r.offer(liar, &pb.Delta{DagName: "evil", Priority: 1, Snapshot: true, Elements: []*pb.Element{claimOn(b.id.Cid(), "/x", "lie", 1)}}))
	r.del("/k")
	if got := r.get("/k"); got != "(none)" {
		t.Errorf("/k is %q", got)
	}
}

func TestHooksOfClaims(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	call := func(s string) { mu.Lock(); defer mu.Unlock(); calls = append(calls, s) }
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { call(fmt.Sprintf("put %s %s", k, v)) }
		o.DeleteHook = func(k ds.Key) { call("delete " + k.String()) }
	})
	liar := r.node.net.node()
	own := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: []byte("own")}, {Key: "/same", Value: []byte("s")}}}))
	for i, claims := range [][]*pb.Element{
		{claimOn(own, "/k", "a lie", 1), claimOn(own, "/same", "s", 1)},
		{claimOn(own, "/k", "a greater lie", 2)},
		{claimOn(own, "/k", "a lesser lie", 1), claimOn(own, "/gone", "x", 1)},
	} {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: uint64(1 + i), Snapshot: true, Elements: claims}))
	}
	r.node.deliver(announcement(own))
	r.awaitMerged(own)
	want := "[put /k a lie put /same s put /k a greater lie put /gone x delete /gone put /k own]"
	waitFor(t, "the hooks", func() bool { mu.Lock(); defer mu.Unlock(); return len(calls) >= 6 })
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(calls[4:])
	if fmt.Sprint(calls) != want {
		t.Errorf("the hooks were told %q", calls)
	}
}

func TestSummariesAreNotWritten(t *testing.T) {
	r := newTestNet().newReplica(t)
	d, err := r.Set().Add(ctx, "/k", []byte("v"))
	r.must(err)
	r.must(d.Unmarshal(marshalDelta(t, &pb.Delta{Snapshot: true})))
	if _, err := r.Publish(ctx, d); err == nil {
		t.Error("a summary was published")
	}
}

func TestCheckDeltaCanRefuseSummaries(t *testing.T) {
	r := newTestNet().newReplica(t, silent, func(o *Options) {
		o.CheckDelta = func(_ context.Context, _ Head, d Delta) error {
			if d.(interface{ GetSnapshot() bool }).GetSnapshot() {
				return errors.New("no summaries")
			}
			return nil
		}
	})
	s := r.offer(r.node.net.node(), &pb.Delta{Priority: 1, Snapshot: true})
	waitFor(t, "the summary to be refused", func() bool { return r.state(s) == refused })
	r.put("/k", "v")
}
