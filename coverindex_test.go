package crdt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// hold has a replica hold a checkpoint that covers just so many invented blocks, and
// others, with nobody told.
func (r *replica) hold(invented int, ids ...blockID) {
	r.t.Helper()
	fresh := hashedIDs(0, invented)
	for _, id := range ids {
		fresh = append(fresh, id.inCover())
	}
	slices.SortFunc(fresh, coverID.compare)
	r.holdSegments(r.extend(fresh))
}

func (r *replica) holdSegments(segments []segment) {
	r.t.Helper()
	r.must(r.committer.stageSegments(ctx, segments))
	r.setInvented(&checkpoint{id: inventedCheckpoint, tip: HeadValue{DAGName: "invented"}, state: checkpointHeld, segments: segments})
}

// inventedCheckpoint is the id of a checkpoint that has no block.
var inventedCheckpoint = hashedID(-1)

func (r *replica) setInvented(cp *checkpoint) {
	r.t.Helper()
	r.must(r.committer.do(ctx, func(c *commit) error {
		c.checkpoints.set(cp)
		for _, top := range append(c.dag.heads.now.ids(), c.dag.pendingHeads.now.ids()...) {
			covered, err := r.Datastore.store.inSegments(ctx, cp.segments, top)
			if err != nil {
				return err
			}
			if covered {
				c.dag.heads.remove(top)
				c.dag.pendingHeads.remove(top)
			}
		}
		return nil
	}))
}

// tellOfInvented has those that wait for what the invented checkpoint covers told.
func (r *replica) tellOfInvented() {
	r.t.Helper()
	cp := *r.frontier.checkpoints()[inventedCheckpoint]
	cp.state = checkpointTold
	r.setInvented(&cp)
}

// letGo forgets the invented checkpoint.
func (r *replica) letGo() {
	r.t.Helper()
	r.must(r.committer.do(ctx, func(c *commit) error {
		c.checkpoints.remove(inventedCheckpoint)
		return nil
	}))
	r.must(r.committer.sweepSegments(ctx))
}

func idsOf(t *testing.T, cids ...cid.Cid) []blockID {
	t.Helper()
	ids, err := cidsToIDs(cids)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// isCovered holds what is known of a block that only a cover has against what is to be.
func (r *replica) isCovered(c cid.Cid, want bool) {
	r.t.Helper()
	if is, err := r.IsProcessed(ctx, c); is != want || err != nil {
		r.t.Errorf("IsProcessed: %v, %v, want %v", is, err, want)
	}
}

func TestCoverCountsAsMarks(t *testing.T) {
	for _, invented := range []int{0, maxSmallIDs} { // in memory, and in rows
		t.Run(fmt.Sprint(invented), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testCoverCountsAsMarks(t, invented) })
		})
	}
}

func testCoverCountsAsMarks(t *testing.T, invented int) {
	net := newTestNet()
	r, author := net.newReplica(t), net.node()
	below := author.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/below")}))
	child := author.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement("/child")}), below)
	r.isCovered(child, false)
	r.hold(invented, idsOf(t, child, below)...)
	for range 2 {
		asked := r.node.asked()
		r.node.deliver(announcement(child))
		synctest.Wait()
		r.isCovered(child, true)
		if got := r.node.asked(); got != asked || r.get("/child") != "(none)" {
			t.Errorf("%d blocks were asked for", got-asked)
		}
		r.restart()
		synctest.Wait()
	}
	top := r.offer(author, &pb.Delta{Priority: 3, Elements: oneElement("/top"), Tombstones: []*pb.Element{tombstoneOf(t, "/child", child)}}, child)
	synctest.Wait()
	if s := r.state(top); s != complete {
		t.Errorf("a block on covered ones is %d", s)
	}
	if rows := r.rowsUnder("/s/t"); len(rows) > 0 {
		t.Errorf("a tombstone for a covered block has left %s", rows[0].Key)
	}
}

func TestCoverEndsWithItsCheckpoint(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.hold(0, hashedID(1))
	r.isCovered(hashedID(1).Cid(), true)
	r.letGo()
	r.isCovered(hashedID(1).Cid(), false)
}

// A replica that has merged a block of an author, above one that nobody has.
func waitingReplica(t *testing.T) (r *replica, author *testNode, gap, waits cid.Cid) {
	t.Helper()
	net := newTestNet()
	r, author, gap = net.newReplica(t), net.node(), unavailable(0)
	waits = r.offer(author, &pb.Delta{Priority: 2, Elements: oneElement("/waits")}, gap)
	r.awaitMerged(waits)
	return r, author, gap, waits
}

// What waits for blocks that come to be covered is told of it, after a restart as well.
func TestCoverBeatsPendingRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, author, gap, waits := waitingReplica(t)
		r.hold(0, idsOf(t, gap, waits)...)
		next := r.offer(author, &pb.Delta{Priority: 3, Elements: oneElement("/next")}, waits)
		synctest.Wait()
		if s := r.state(next); s != complete {
			t.Errorf("a block on a pending one that is covered is %d", s)
		}
		r.tellOfInvented()
		synctest.Wait()
	})
}

func TestWhatWaitsForACoverIsToldAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, gap, waits := waitingReplica(t)
		r.hold(0, idsOf(t, gap)...)
		r.restart()
		synctest.Wait()
		if s := r.state(waits); s != complete || len(r.rowsUnder("/q")) > 0 {
			t.Errorf("a block on a covered one is %d after a restart", s)
		}
	})
}

// A history of 15 blocks, the lowest 12 of which were dropped.
func mostlyDropped(t *testing.T) (r *replica, dropped []cid.Cid) {
	t.Helper()
	r = newTestNet().newReplica(t)
	for i := range 15 {
		r.put(fmt.Sprint("/k", i), "v")
		if i < 12 {
			dropped = append(dropped, r.head())
		}
	}
	r.hold(0, idsOf(t, dropped...)...)
	for _, id := range idsOf(t, dropped...) {
		r.must(r.store.Delete(ctx, r.Datastore.store.keys.block(id)))
		r.must(r.Datastore.blocks.remove(ctx, id))
	}
	return r, dropped
}

// A watchedDAG keeps in mind which blocks it was asked for.
type watchedDAG struct {
	*testNode
	mu  sync.Mutex
	got map[cid.Cid]bool
}

func (d *watchedDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	d.mu.Lock()
	d.got[c] = true
	d.mu.Unlock()
	return d.testNode.Get(ctx, c)
}

func (d *watchedDAG) wasAskedFor(c cid.Cid) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.got[c]
}

func (d *watchedDAG) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.got)
}

func TestWalksStopAtCovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, dropped := mostlyDropped(t)
		watched := &watchedDAG{testNode: r.node, got: make(map[cid.Cid]bool)}
		r.reopenWith(watched, nil)
		synctest.Wait()
		visited := 0
		r.must(r.Traverse(ctx, []cid.Cid{r.head()}, func(ipld.Node) error { visited++; return nil }))
		var dot strings.Builder
		r.must(r.DotDAG(ctx, &dot))
		if n := strings.Count(dot.String(), "label="); n != 3 || visited != 3 {
			t.Errorf("of 3 blocks %d were visited and %d drawn", visited, n)
		}
		r.MarkDirty(ctx)
		r.must(r.Repair(ctx))
		for _, c := range dropped {
			if watched.wasAskedFor(c) {
				t.Error("a dropped block was asked for")
			}
		}
		for range 40 {
			r.put("/more", "v")
		}
		b, err := r.Datastore.blocks.getMerged(ctx, idsOf(t, r.head())[0])
		r.must(err)
		for _, c := range dropped {
			if slices.Contains(b.links, idsOf(t, c)[0]) {
				t.Error("a skip link leads below a cover")
			}
		}
		if n, err := r.PurgeDAG(ctx, ""); err != nil || n != 43 {
			t.Errorf("%d blocks were purged: %v", n, err)
		}
	})
}

// A hookedStore calls a function before it reads rows.
type hookedStore struct {
	ds.Batching
	onRead atomic.Pointer[func(key string)]
}

func (s *hookedStore) reads(key string) {
	if f := s.onRead.Load(); f != nil {
		(*f)(key)
	}
}

func (s *hookedStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	s.reads(k.String())
	return s.Batching.Get(ctx, k)
}

func (s *hookedStore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	s.reads(q.Prefix)
	return s.Batching.Query(ctx, q)
}

// Those who have not the turn may look at segments that are merged into others, and lose
// their rows, meanwhile.
func TestLookUpsWhileSegmentsAreMerged(t *testing.T) {
	for _, n := range []int{1000, 2 * maxSmallIDs} { // in memory, and in rows
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			store := &hookedStore{Batching: newAtomicStore()}
			r := newTestNet().newReplicaOn(t, store)
			first := r.extend(hashedIDs(0, n))
			r.holdSegments(first)
			merge := func(key string) {
				if strings.HasPrefix(key, first[0].root.under(r.Datastore.store.keys.segments)) {
					store.onRead.Store(nil)
					r.holdSegments(r.extend(hashedIDs(n, n), first))
					r.must(r.committer.sweepSegments(ctx))
				}
			}
			store.onRead.Store(&merge)
			r.isCovered(hashedID(1).Cid(), true)
			if store.onRead.Load() != nil {
				t.Fatal("the segment was not merged in the midst of a look-up")
			}
			r.isCovered(hashedID(n+1).Cid(), true)
			r.isCovered(hashedID(2*n+1).Cid(), false)
		})
	}
}

func TestOneBucketMayHaveMany(t *testing.T) {
	const many = 3 * maxBucketIDs
	r := newTestNet().newReplica(t)
	crowd := make([]coverID, many)
	for i := range crowd {
		crowd[i] = coverID{0: 0x80, 14: byte(i >> 8), 15: byte(i)}
	}
	segments := r.extend(hashedIDs(0, many), r.extend(crowd))
	r.must(r.committer.stageSegments(ctx, segments))
	store := r.Datastore.store
	for _, id := range slices.Concat(crowd, hashedIDs(0, many)) {
		if found, err := store.inSegments(ctx, segments, blockID(append(id[:], make([]byte, 16)...))); !found || err != nil {
			t.Fatalf("%x: %v, %v", id, found, err)
		}
	}
	if found, err := store.inSegments(ctx, segments, blockID{0: 0x80, 13: 1}); found || err != nil {
		t.Errorf("a block that is not covered: %v, %v", found, err)
	}
	for _, e := range r.rowsUnder("/w/s") {
		if len(e.Value) > maxBucketIDs*16 {
			t.Errorf("row %s has %d bytes", e.Key, len(e.Value))
		}
	}
}

func TestMemoryOfCoversIsBounded(t *testing.T) {
	var index coverIndex
	all := []segment{{testID(1), 10 * maxSmallIDs}, {testID(2), maxSmallIDs - 10}, {testID(3), 10}, {testID(4), 5}, {testID(3), 10}}
	index.set(all)
	var small []uint64
	for _, h := range *index.held.Load() {
		if h.small {
			small = append(small, h.ids)
		}
	}
	if !slices.Equal(small, []uint64{5, 10}) {
		t.Errorf("segments of %v ids are kept in memory", small)
	}
	if index.set(nil); !index.none() {
		t.Error("it is not empty")
	}
}
