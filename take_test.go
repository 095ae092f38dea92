package crdt

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

func putDelta(priority uint64, key, value string) *pb.Delta {
	return &pb.Delta{Priority: priority, Elements: []*pb.Element{{Key: key, Value: []byte(value)}}}
}

// A takeTest is a history of which only some is left. Its author is out of reach.
type takeTest struct {
	net    *testNet
	author *replica
	server *testNode // has what is left
}

func newTakeTest(t *testing.T, write func(r *replica)) *takeTest {
	s := &takeTest{net: newTestNet()}
	s.author, s.server = s.net.newReplica(t), s.net.node()
	s.author.node.away(true)
	write(s.author)
	return s
}

// checkpoint publishes a checkpoint of all that the author has written.
func (s *takeTest) checkpoint(t *testing.T) cid.Cid {
	return s.author.snapshot("").publish(t, s.server)
}

// serve lets blocks of the author be had. It returns the head.
func (s *takeTest) serve(t *testing.T, blocks ...blockID) {
	for _, id := range blocks {
		if err := s.server.addRaw(id.Cid(), s.author.node.raw(id)); err != nil {
			t.Fatal(err)
		}
	}
}

// catchUp gives a replica all that the author has written so far.
func (s *takeTest) catchUp(t *testing.T, r *replica) {
	f := s.author.snapshot("")
	s.serve(t, f.cover...)
	r.node.deliver(announcement(f.links[0].Cid()))
	waitFor(t, "the history", func() bool { return r.state(f.links[0].Cid()) == complete })
	for _, id := range f.cover {
		_ = s.server.Remove(ctx, id.Cid())
	}
}

// patientRequests has a replica ask for blocks for so long that they seem to be nowhere.
func patientRequests(o *Options) { o.DAGSyncerTimeout = time.Minute }

// manyVersions leaves live, lost and removed versions.
func manyVersions(r *replica) {
	for i := range 40 {
		r.put(fmt.Sprint("/k", i%10), fmt.Sprint(i))
		if i%7 == 3 {
			r.del(fmt.Sprint("/k", i%5))
		}
	}
	r.put("/large", string(make([]byte, 100<<10)))
}

// A newcomer takes a checkpoint in the place of a history that nobody has any more.
func TestNewcomerTakesACheckpoint(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	c := s.checkpoint(t)
	told := &hookView{}
	r := s.net.newReplica(t, told.listen)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	want := s.author.pairs()
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	if r.head() != c {
		t.Errorf("its head is %s, and not the checkpoint", r.head())
	}
	told.check(t, want, len(want))
}

// A replica that lags behind loses what was removed meanwhile, though the blocks that say
// so cannot be had.
func TestLaggardTakesACheckpoint(t *testing.T) { synctest.Test(t, laggardTakes) }

func laggardTakes(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	told := &hookView{}
	r := s.net.newReplica(t, told.listen, patientRequests)
	s.catchUp(t, r)
	before := s.author.pairs()
	told.check(t, before, -1)
	told.reset()
	for i := range 10 { // two generations later
		s.author.put(fmt.Sprint("/k", i), "new")
		if i%2 == 0 {
			s.author.del(fmt.Sprint("/k", i))
		}
	}
	s.checkpoint(t)
	s.author.put("/k1", "newer")
	s.author.del("/k3")
	s.author.put("/fresh", "value")
	c := s.checkpoint(t)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	want := s.author.pairs()
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	told.check(t, want, differences(before, want))
	if r.head() != c {
		t.Errorf("its head is %s, and not the checkpoint", r.head())
	}
}

// What is missing is nowhere, at whatever height it was said to be.
func TestTakeBelowOddHeights(t *testing.T) { synctest.Test(t, takeBelowOddHeights) }

func takeBelowOddHeights(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	s.author.node.away(true)
	r := s.net.newReplica(t, patientRequests)
	r.awaitMerged(r.offer(s.server, putDelta(math.MaxUint64-1, "/x", "of a DAG that seems to be large"))) // or the checkpoint was far above
	r.awaitMerged(r.offer(s.server, putDelta(math.MaxUint64, "/y", "on top of what is missing"), f.links[0].Cid()))
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
}

// Nothing is asked for that is covered, though it was missing when a block was merged whose
// hooks take longer than the take.
func TestTakeBesideASlowHook(t *testing.T) { synctest.Test(t, takeBesideASlowHook) }

func takeBesideASlowHook(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	middle := s.author.snapshot("").links[0]
	s.author.put("/more", "value")
	c := s.author.snapshot("").publish(t, s.server)
	s.author.node.away(true)
	r := s.net.newReplica(t, patientRequests, func(o *Options) {
		o.PutHook = func(k ds.Key, _ []byte) {
			if k.String() == "/slow" {
				time.Sleep(2 * time.Minute)
			}
		}
	})
	r.awaitMerged(r.offer(s.server, putDelta(math.MaxUint64-1, "/x", "of a DAG that seems to be large"))) // or the checkpoint was far above
	r.node.deliver(announcement(c))
	r.awaitMerged(c)
	r.awaitMerged(r.offer(s.server, putDelta(3, "/slow", "x"), middle.Cid()))
	r.awaitCheckpoint(c, checkpointHeld)
	time.Sleep(3 * time.Minute)
	if n := r.fetcher.len(); n > 0 {
		t.Errorf("%d blocks are asked for", n)
	}
}

// differences returns how many keys differ.
func differences(a, b map[string]string) (n int) {
	for key := range a {
		if v, ok := b[key]; !ok || v != a[key] {
			n++
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			n++
		}
	}
	return n
}

// hookView is what the hooks of a replica have been told.
type hookView struct {
	mu    sync.Mutex
	pairs map[string]string
	calls int
}

func (h *hookView) listen(o *Options) {
	h.pairs = make(map[string]string)
	o.PutHook = func(k ds.Key, v []byte) { h.tell(func() { h.pairs[k.String()] = string(v) }) }
	o.DeleteHook = func(k ds.Key) { h.tell(func() { delete(h.pairs, k.String()) }) }
}

func (h *hookView) tell(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	change()
}

// reset forgets how often the hooks have been called.
func (h *hookView) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = 0
}

// check waits for the hooks to say what they should, and fails unless it took so many
// calls. -1 is any number.
func (h *hookView) check(t *testing.T, want map[string]string, calls int) {
	t.Helper()
	waitFor(t, "hooks", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.calls >= calls && maps.Equal(h.pairs, want)
	})
	if calls >= 0 && h.calls != calls || !maps.Equal(h.pairs, want) {
		t.Errorf("the hooks were called %d times, want %d; they say %v, want %v", h.calls, calls, h.pairs, want)
	}
}

// byHand keeps a replica from taking checkpoints by itself until the end of the test.
func (r *replica) byHand(dagName string) *checkpointer {
	r.t.Helper()
	_, end, err := r.checkpointer.begin(ctx, dagName)
	r.must(err)
	r.t.Cleanup(end)
	return r.checkpointer
}

// beginTake has a replica begin to take a checkpoint that has been announced.
func (r *replica) beginTake(c cid.Cid) (*checkpointer, *checkpoint) {
	r.t.Helper()
	by := r.byHand("")
	r.node.deliver(announcement(c))
	r.awaitMerged(c)
	id, err := blockIDOf(c)
	r.must(err)
	r.must(by.beginTake(ctx, by.checkpoint(id)))
	return by, by.checkpoint(id)
}

// While a checkpoint is being taken, what it covers is not merged, what is built on it
// is, and local writes win over what it brings.
func TestWritesBesideATake(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	covered := f.links[0].Cid()
	s.serve(t, f.links[0])
	r := s.net.newReplica(t)
	by, cp := r.beginTake(c)

	r.node.deliver(announcement(covered))
	var removed entry
	for _, e := range f.entries {
		if !e.tombstone && e.key == "/large" {
			removed = e
		}
	}
	above := r.offer(s.server, &pb.Delta{Priority: f.height + 1, Tombstones: []*pb.Element{tombstoneOf(t, "/large", removed.id.Cid())}}, c)
	r.awaitMerged(above)
	if r.state(covered) != unknown {
		t.Error("a covered block was merged during the take")
	}
	r.put("/k1", "local")

	r.must(by.mergeSnapshot(ctx, cp))
	r.must(by.take(ctx, cp.id))
	want := s.author.pairs()
	delete(want, "/large")
	want["/k1"] = "local"
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	waitFor(t, "what is above to be complete", func() bool { return r.state(above) == complete })
}

// What is announced and hidden by a take is not fetched. If nothing links to it, no row would
// say that it is here.
func TestTakeFetchesNothingThatIsAnnounced(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	s.serve(t, f.cover...)
	r := s.net.newReplica(t)
	by, cp := r.beginTake(c)
	for i, id := range f.cover {
		if raw := s.author.node.raw(id); i%2 == 0 {
			r.node.deliver(announceInline(id.Cid(), raw))
		} else {
			r.node.deliver(announcement(id.Cid()))
		}
	}
	r.awaitMerged(r.offer(s.server, putDelta(1, "/another", "x")))
	r.must(by.take(ctx, cp.id))
	here := slices.DeleteFunc(f.cover, func(id blockID) bool { return r.node.raw(id) == nil })
	if len(here) > 0 {
		t.Errorf("%d blocks of the cover are here", len(here))
	}
}

// What waits for blocks of the cover is told of them.
func TestTakeTellsThoseThatWait(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	middle := s.author.snapshot("").links[0]
	s.author.put("/more", "value")
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	r := s.net.newReplica(t)
	beside := r.offer(s.server, putDelta(f.height+3, "/beside", "x"), middle.Cid())
	r.awaitMerged(beside)
	above := r.offer(s.server, putDelta(f.height+1, "/above", "x"), c)
	r.awaitCheckpoint(c, checkpointHeld)
	waitFor(t, "those that wait to be complete", func() bool { return r.state(beside) == complete && r.state(above) == complete })
	want := s.author.pairs()
	want["/beside"], want["/above"] = "x", "x"
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
}

// A take that is cut off at any write goes on after the restart, and once it has begun, it
// needs nobody for that.
func TestTakeThatIsCutOff(t *testing.T) {
	commits := func(s *faultyStore) ds.Datastore { return s }
	rows := func(s *faultyStore) ds.Datastore { return plainStore{s} }
	cutOffTakes(t, commits, 1)
	cutOffTakes(t, rows, 5)
}

func cutOffTakes(t *testing.T, on func(*faultyStore) ds.Datastore, step int) {
	died := true
	for at := 0; died; at += step {
		synctest.Test(t, func(t *testing.T) {
			store := newFaultyStore()
			died = cutOffTake(t, store, on(store), at)
		})
	}
}

func cutOffTake(t *testing.T, store *faultyStore, on ds.Datastore, at int) (died bool) {
	s := newTakeTest(t, manyVersions)
	r := s.net.newReplicaOn(t, on, silent)
	s.catchUp(t, r)
	for i := range 10 {
		s.author.del(fmt.Sprint("/k", i))
		s.author.put(fmt.Sprint("/m", i), "new")
	}
	for range 30 { // so that it is far above
		s.author.put("/x", "value")
		s.author.del("/x")
	}
	c := s.checkpoint(t)
	store.dieAfter(at)
	r.node.deliver(announcement(c))
	waitFor(t, "the end of the take, or of the store", func() bool {
		died = store.hasDied()
		return died || r.checkpointState(c) == checkpointHeld
	})
	if died {
		_ = r.Close()
	}
	store.heal()
	if died {
		s.server.away(r.hasBegunToTake(c))
		r.open()
		r.node.deliver(announcement(c))
		r.awaitCheckpoint(c, checkpointHeld)
	}
	if got, want := r.pairs(), s.author.pairs(); !maps.Equal(got, want) {
		t.Errorf("cut off after %d writes, it has %v, want %v", at, got, want)
	}
	return died
}

// hasBegunToTake reports whether the store of a replica that is closed says so.
func (r *replica) hasBegunToTake(c cid.Cid) bool {
	r.t.Helper()
	known, err := r.Datastore.store.loadCheckpoints(ctx)
	r.must(err)
	cp := known[idOf(c)]
	return cp != nil && (cp.state == checkpointTaking || cp.state.held())
}

// A checkpoint that cannot be taken as it is malformed is void before anything was done,
// and its history is walked.
func TestMalformedSnapshotsAreVoid(t *testing.T) {
	for name, spoil := range map[string]func(f *testSnapshot){
		"a version whose block is not covered": func(f *testSnapshot) {
			f.entries = append(f.entries, entry{key: "/lie", id: testID(1), priority: 99, value: []byte("x")})
		},
		"a tombstone whose block is covered": func(f *testSnapshot) {
			f.entries = append(f.entries, entry{key: "/k1", id: f.cover[0], tombstone: true})
		},
		"a cover without what is linked": func(f *testSnapshot) {
			f.cover = slices.DeleteFunc(f.cover, func(id blockID) bool { return id == f.links[0] })
			f.entries = slices.DeleteFunc(f.entries, func(e entry) bool { return e.id == f.links[0] })
		},
		"fewer blocks than it says":  func(f *testSnapshot) { f.alter = func(n *snapshotName) { n.blocks++ } },
		"fewer entries than it says": func(f *testSnapshot) { f.alter = func(n *snapshotName) { n.entries++ } },
		"more bytes than it says":    func(f *testSnapshot) { f.alter = func(n *snapshotName) { n.bytes-- } },
		"a cover for a tree":         func(f *testSnapshot) { f.alter = func(n *snapshotName) { n.versions = n.cover } },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTakeTest(t, manyVersions)
			f := s.author.snapshot("")
			spoil(f)
			c := f.publish(t, s.server)
			r := s.net.newReplica(t, silent)
			r.node.deliver(announcement(c))
			r.awaitCheckpoint(c, checkpointVoid)
			if n := len(r.pairs()); n > 0 {
				t.Errorf("it has %d pairs of a malformed snapshot", n)
			}
			s.serve(t, s.author.snapshot("").cover...)
			waitFor(t, "the history", func() bool { return r.state(c) == complete })
			if got, want := r.pairs(), s.author.pairs(); !maps.Equal(got, want) {
				t.Errorf("it has %v, want %v", got, want)
			}
		})
	}
}

// A snapshot that cannot be had does not keep the history from being walked, and is tried
// again as long as that cannot be had either.
func TestSnapshotThatComesLater(t *testing.T) {
	for _, walk := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newTakeTest(t, manyVersions)
			elsewhere := s.net.node()
			f := s.author.snapshot("")
			c := f.publish(t, elsewhere)
			if err := s.server.addRaw(c, elsewhere.raw(idOf(c))); err != nil {
				t.Fatal(err)
			}
			elsewhere.away(true)
			r := s.net.newReplica(t, silent, patientRequests)
			r.node.deliver(announcement(c))
			r.awaitMerged(c)
			r.awaitCheckpoint(c, checkpointSeen)
			if walk {
				s.serve(t, f.cover...)
				waitFor(t, "the history", func() bool { return r.state(c) == complete })
			} else {
				elsewhere.away(false)
			}
			waitFor(t, "the pairs", func() bool { return maps.Equal(r.pairs(), s.author.pairs()) })
		})
	}
}

// Two DAGs are taken beside each other. Writes to one win over what the other brings.
func TestTakesInTwoDAGs(t *testing.T) {
	s := newTakeTest(t, func(r *replica) {
		manyVersions(r)
		for i := range 9 {
			r.publishIn("x", fmt.Sprint("/k", i), fmt.Sprint("x", i))
		}
	})
	r := s.net.newReplica(t)
	for _, dag := range []string{"", "x"} {
		c := s.author.snapshot(dag).publish(t, s.server)
		r.node.deliver(announcement(c))
		r.awaitCheckpoint(c, checkpointHeld)
	}
	if got, want := r.pairs(), s.author.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
}

// A snapshot that takes many commits is taken whole, and fetched once.
func TestTakeOfManyEntries(t *testing.T) {
	s := newTakeTest(t, func(r *replica) {
		for i := range 6 {
			b, err := r.Batch(ctx)
			r.must(err)
			for k := range 1500 {
				r.must(b.Put(ctx, ds.NewKey(fmt.Sprint("/k", i%5, "/", k)), fmt.Append(nil, "value", i, k)))
			}
			r.must(b.Commit(ctx))
		}
		for k := range 700 {
			r.del(fmt.Sprint("/k1/", k))
		}
	})
	c := s.checkpoint(t)
	told := &hookView{}
	r := s.net.newReplica(t, told.listen)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	want := s.author.pairs()
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %d pairs, want %d", len(got), len(want))
	}
	told.check(t, want, len(want))
	fetched, state := 0, 0
	for _, raw := range r.node.blocks {
		fetched += len(raw)
	}
	for key, value := range want {
		state += len(key) + len(value)
	}
	t.Logf("%d bytes fetched for a state of %d and %d blocks", fetched, state, len(s.author.snapshot("").cover))
}

// A tombstone for a version that is here before its block removes it, and keeps it from
// coming back with the block. Local writes win over all that a checkpoint may bring.
func TestTombstoneForAVersionBeforeItsBlock(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	r := s.net.newReplica(t)
	by, cp := r.beginTake(c)
	r.must(by.addEntries(ctx, cp, false))
	large := f.entries[slices.IndexFunc(f.entries, func(e entry) bool { return e.key == "/large" })]
	r.must(by.leave(ctx, cp.id, errLeft))
	if r.get("/large") == "(none)" {
		t.Fatal("what a take has added is gone after it was left")
	}
	r.awaitMerged(r.offer(s.server, &pb.Delta{Priority: 1, Tombstones: []*pb.Element{tombstoneOf(t, "/large", large.id.Cid())}}))
	if got := r.get("/large"); got != "(none)" || len(r.rowsUnder("/s/t/large")) != 1 {
		t.Errorf("/large is %.9q, and there are %d tombstones", got, len(r.rowsUnder("/s/t/large")))
	}
	s.serve(t, f.cover...)
	waitFor(t, "the history", func() bool { return r.state(c) == complete })
	want := s.author.pairs()
	delete(want, "/large")
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
}

// A write beside a take is higher than the checkpoint, of whatever DAG that is.
func TestWritesRiseAboveATake(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	f := s.author.snapshot("")
	r := s.net.newReplica(t)
	by, cp := r.beginTake(f.publish(t, s.server))
	if head := r.publishIn("x", "/k1", "local"); head.Height <= f.height {
		t.Errorf("its height is %d, that of the checkpoint %d", head.Height, f.height)
	}
	r.must(by.take(ctx, cp.id))
	if got := r.get("/k1"); got != "local" {
		t.Errorf("/k1 is %q", got)
	}
}

// Peers can make up any number of DAGs, and a checkpoint in each.
func TestWantedCheckpointsAreBounded(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.byHand("")
	liar := r.node.net.node()
	for i := range 2 * maxWanted {
		d := checkpointDelta(2)
		d.DagName = fmt.Sprint("dag", i)
		r.awaitMerged(r.offer(liar, d, unavailable(i)))
	}
	wanted := 0
	for _, cp := range r.frontier.checkpoints() {
		if cp.state == checkpointWanted {
			wanted++
		}
	}
	if wanted != maxWanted {
		t.Errorf("%d checkpoints are wanted, want %d", wanted, maxWanted)
	}
}

// The records are read while others remove versions: a loser that wins meanwhile is in
// neither the old record nor the rows of losers.
func TestVersionsOfARecordThatHasChanged(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	rows := r.Datastore.store
	r.put("/k", "loser")
	loser := r.head()
	r.put("/k", "winner")
	record, err := rows.Get(ctx, rows.keys.record("/k"))
	r.must(err)
	want := []string{loser.String(), r.head().String()}
	check := func(want ...string) {
		t.Helper()
		ids, err := rows.versionsOf(ctx, "/k", record)
		r.must(err)
		var got []string
		for _, id := range ids {
			got = append(got, id.Cid().String())
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	check(want...)
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: 3, Tombstones: []*pb.Element{tombstoneOf(t, "/k", r.head())}}, r.head()))
	check(loser.String())
}
