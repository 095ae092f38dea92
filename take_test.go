package crdt

import (
	"fmt"
	"maps"
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

// A takeTest is a history of which only the last checkpoint is left.
type takeTest struct {
	net    *testNet
	author *replica  // whose blocks cannot be had once it has left
	server *testNode // has the checkpoints, and what is built on them
}

func newTakeTest(t *testing.T, write func(r *replica)) *takeTest {
	s := &takeTest{net: newTestNet()}
	silence := func(o *Options) { o.RebroadcastInterval = time.Hour }
	s.author, s.server = s.net.newReplica(t, silence), s.net.node()
	write(s.author)
	return s
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
	c := s.author.snapshot("").publish(t, s.server)
	s.author.node.away(true)
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
	before := converge(t, s.author, r)
	s.net.split(0, 0, 1)
	told.reset()
	for i := range 10 { // two generations later
		s.author.put(fmt.Sprint("/k", i), "new")
		if i%2 == 0 {
			s.author.del(fmt.Sprint("/k", i))
		}
	}
	s.author.snapshot("").publish(t, s.server)
	s.author.put("/k1", "newer")
	s.author.del("/k3")
	s.author.put("/fresh", "value")
	c := s.author.snapshot("").publish(t, s.server)
	s.author.node.away(true)
	s.net.heal()
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	want := s.author.pairs()
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	told.check(t, want, differences(before, want))
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

func (h *hookView) check(t *testing.T, want map[string]string, calls int) {
	t.Helper()
	waitFor(t, "hooks", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.calls >= calls
	})
	if h.calls != calls || !maps.Equal(h.pairs, want) {
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
	if err := s.server.addRaw(covered, s.author.node.raw(f.links[0])); err != nil {
		t.Fatal(err)
	}
	s.author.node.away(true)
	r := s.net.newReplica(t)
	by, cp := r.beginTake(c)

	r.node.deliver(announcement(covered))
	waitFor(t, "a covered block to be passed over", func() bool { return r.fetcher.len() == 0 && r.node.raw(f.links[0]) != nil })
	if r.state(covered) != unknown {
		t.Error("a covered block was merged during the take")
	}
	var removed entry
	for _, e := range f.entries {
		if !e.tombstone && e.key == "/large" {
			removed = e
		}
	}
	above := r.offer(s.server, &pb.Delta{Priority: f.height + 1, Tombstones: []*pb.Element{tombstoneOf(t, "/large", removed.id.Cid())}}, c)
	r.awaitMerged(above)
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

// What waits for blocks of the cover is told of them.
func TestTakeTellsThoseThatWait(t *testing.T) {
	s := newTakeTest(t, manyVersions)
	middle := s.author.snapshot("").links[0]
	s.author.put("/more", "value")
	f := s.author.snapshot("")
	c := f.publish(t, s.server)
	s.author.node.away(true)
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
