package crdt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

func TestPutWithCancelledContext(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 200 {
		ctx, cancel := context.WithCancel(ctx)
		go cancel()
		key := ds.NewKey(fmt.Sprint(i))
		err := r.Put(ctx, key, []byte("v"))
		has, _ := r.Has(context.Background(), key)
		if has != (err == nil) {
			t.Fatalf("Put said %v, and the key is there: %v", err, has)
		}
	}
}

func TestDAGServiceThatRefusesFailsTheWrite(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "v")
	refusal := errors.New("disk full")
	r.node.addError = refusal
	if err := r.Put(ctx, ds.NewKey("/b"), []byte("v")); !errors.Is(err, refusal) {
		t.Errorf("Put: %v", err)
	}
	r.node.addError = nil
	if len(r.pairs()) != 1 || r.InternalStats(ctx).MaxHeight != 1 {
		t.Errorf("the failed write left a trace: %v", r.pairs())
	}
	r.put("/c", "v")
}

func TestTooLarge(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/fits", strings.Repeat("x", 2<<20-1000))
	for _, size := range []int{2 << 20, 2<<20 - 20} {
		err := r.Put(ctx, ds.NewKey("/k"), make([]byte, size))
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "MaxBlockSize") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	b, _ := r.Batch(ctx)
	if err := b.Put(ctx, ds.NewKey("/k"), make([]byte, 2<<20)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("in a batch: %v", err)
	}
	big := newTestNet().newReplica(t, func(o *Options) { o.MaxBlockSize = 8 << 20 })
	big.put("/k", strings.Repeat("x", 4<<20))
}

func TestConcurrentWritersShareBlocks(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	a.must(a.committer.acquire(ctx)) // as a commit would, while the others come
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() { a.put(fmt.Sprint("/", i), "v") })
	}
	waitFor(t, "all writers", func() bool {
		a.writer.mu.Lock()
		defer a.writer.mu.Unlock()
		return len(a.writer.queue) == 64
	})
	a.committer.release()
	wg.Wait()
	if h := a.InternalStats(ctx).MaxHeight; h != 1 {
		t.Errorf("%d blocks for 64 concurrent puts", h)
	}
	if n := len(converge(t, a, b)); n != 64 {
		t.Errorf("%d pairs", n)
	}
}

func TestWritesOfManyGoroutinesAreSeenWhenTheyReturn(t *testing.T) {
	r := newTestNet().newReplica(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			key := fmt.Sprint("/", i)
			for j := range 20 {
				if r.put(key, fmt.Sprint(j)); r.get(key) != fmt.Sprint(j) {
					t.Errorf("a Put that returned is not seen")
				}
				if r.del(key); r.get(key) != "(none)" {
					t.Errorf("a Delete that returned is not seen")
				}
			}
		})
	}
	wg.Wait()
}

// A write whose context ends while it waits for its turn writes nothing, and
// does not fail those that share the block.
func TestCancelledWriteLeavesTheGroup(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.must(r.committer.acquire(ctx))
	cancelled, cancel := context.WithCancel(ctx)
	errs := make(chan error)
	go func() { errs <- r.Put(cancelled, ds.NewKey("/cancelled"), nil) }()
	var wg sync.WaitGroup
	wg.Go(func() { r.put("/kept", "v") })
	r.awaitWriters(2)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	r.committer.release()
	wg.Wait()
	if got := r.pairs(); len(got) != 1 || got["/kept"] != "v" {
		t.Errorf("pairs: %v", got)
	}
}

// The queue of writes must not keep what has been written.
func TestFinishedWritesAreForgotten(t *testing.T) {
	const writes = 64
	r := newTestNet().newReplica(t)
	<-r.committer.turn
	var wg sync.WaitGroup
	values := make(chan weak.Pointer[[1 << 10]byte], writes)
	for i := range writes {
		wg.Go(func() {
			v := new([1 << 10]byte)
			values <- weak.Make(v)
			r.must(r.Put(ctx, ds.NewKey(fmt.Sprint("/", i%2)), v[:]))
		})
	}
	r.awaitWriters(writes)
	r.committer.turn <- struct{}{}
	wg.Wait()
	close(values)
	var all []weak.Pointer[[1 << 10]byte]
	for p := range values {
		all = append(all, p)
	}
	waitFor(t, "the values to go", func() bool {
		runtime.GC()
		kept := 0
		for _, p := range all {
			if p.Value() != nil {
				kept++
			}
		}
		return kept <= 2 // the store may have those that won
	})
}

func TestPutValueBelongsToCallerAfterwards(t *testing.T) {
	r := newTestNet().newReplica(t)
	value := []byte("before")
	b, _ := r.Batch(ctx)
	r.must(b.Put(ctx, ds.NewKey("/batch"), value))
	r.must(r.Put(ctx, ds.NewKey("/put"), value))
	copy(value, "xxxxxx")
	r.must(b.Commit(ctx))
	if !bytes.Equal([]byte(r.get("/batch")+r.get("/put")), []byte("beforebefore")) {
		t.Errorf("values changed: %v", r.pairs())
	}
}

// A record that says that its versions are among the losers, where there are none.
func TestDamagedRecordFailsTheWriteWithAnError(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	key := r.Datastore.store.keys.record("/k")
	good, err := r.store.Get(ctx, key)
	r.must(err)
	bad := append([]byte{}, good...)
	bad[0] |= flagUnresolved
	r.must(r.store.Put(ctx, key, bad))
	if err := r.Delete(ctx, ds.NewKey("/k")); !errors.Is(err, errBadRecord) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := r.Set().Rmv(ctx, "/k"); !errors.Is(err, errBadRecord) {
		t.Errorf("Rmv: %v", err)
	}
	r.put("/other", "v")
	r.must(r.store.Put(ctx, key, good))
}

// A swollen delta marshals to much more than its elements are, or not at all.
type swollen struct{ *pbDelta }

var errSwollen = errors.New("this delta does not marshal")

func (d swollen) Marshal() ([]byte, error) {
	elements, err := d.GetElements()
	for _, e := range elements {
		if e.GetKey() == "/fails" {
			return nil, errSwollen
		}
	}
	b, _ := d.pbDelta.Marshal()
	for range 3 { // a field that nobody knows
		b = appendBytes(b, 50, b)
	}
	return b, err
}

func TestDeltaThatIsLargerThanItLooksFailsAlone(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return swollen{&pbDelta{}} }})
	r.must(r.committer.acquire(ctx))
	errs := make(map[string]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for key, size := range map[string]int{"/large": 400 << 10, "/fails": 10, "/a": 100 << 10, "/b": 100 << 10, "/c": 100 << 10} {
		wg.Go(func() {
			err := r.Put(ctx, ds.NewKey(key), make([]byte, size))
			mu.Lock()
			defer mu.Unlock()
			errs[key] = err
		})
	}
	r.awaitWriters(5)
	r.committer.release()
	wg.Wait()
	if !errors.Is(errs["/large"], ErrTooLarge) || !errors.Is(errs["/fails"], errSwollen) || errs["/a"] != nil || errs["/b"] != nil || errs["/c"] != nil {
		t.Errorf("errors: %v", errs)
	}
	if got := len(r.pairs()); got != 3 {
		t.Errorf("%d pairs", got)
	}
}

// There are more heads than fit the links of a block.
func TestManyHeadsDoNotStopWrites(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) { o.MaxBlockSize = minBlockSize })
	liar := net.node()
	for i := range 100 {
		r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement(fmt.Sprint("/", i))})
	}
	waitFor(t, "100 heads", func() bool { n, _ := r.Heads().Len(ctx); return n == 100 })
	r.put("/k", "v")
	if n, _ := r.Heads().Len(ctx); n >= 100 {
		t.Errorf("%d heads after a write", n)
	}
}

func TestPanickingHookLeavesNoOtherWriterWaiting(t *testing.T) {
	var panicked atomic.Bool
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) {
			if panicked.CompareAndSwap(false, true) {
				panic("hook")
			}
		}
	})
	r.must(r.committer.acquire(ctx))
	ended := make(chan any, 2)
	for i := range 2 {
		go func() {
			defer func() { ended <- recover() }()
			r.put(fmt.Sprint("/", i), "v")
		}()
	}
	r.awaitWriters(2)
	r.committer.release()
	waitFor(t, "both writers to end", func() bool { return len(ended) == 2 })
	if first, second := <-ended, <-ended; (first == nil) == (second == nil) {
		t.Errorf("the writers panicked with %v and %v, want one panic", first, second)
	}
	if got := r.pairs(); len(got) != 2 {
		t.Errorf("pairs: %v", got)
	}
}

// Writers whose writes have been committed wait for their leader's hooks without
// taking the turn again and again.
func TestCommittedWritersLeaveTheTurnAlone(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) {
			begun <- struct{}{}
			<-goOn
		}
	})
	r.must(r.committer.acquire(ctx))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { r.put("/k", "v") })
	}
	r.awaitWriters(3)
	r.committer.release()
	<-begun
	if n := allocations(50 * time.Millisecond); n > 2000 {
		t.Errorf("%d allocations while all wait for a hook", n)
	}
	close(goOn)
	wg.Wait()
}

// allocations counts those of all goroutines in a while: few when all wait.
func allocations(while time.Duration) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	time.Sleep(while)
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

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
		b, err := r.Datastore.blocks.fetchBlock(ctx, link{id: blockID(c.Hash()[2:])})
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
			b, err := r.Datastore.blocks.fetchBlock(ctx, link{id: blockID(c.Hash()[2:])})
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
			heads, _ := a.frontier.tips()
			value := make([]byte, a.Datastore.blocks.elementBudget("", len(heads))-elementSize("/k", nil))
			a.must(a.Put(ctx, ds.NewKey("/k"), value))
		}
		batch, err := a.Batch(ctx)
		a.must(err)
		for i := range 5 {
			value := make([]byte, a.Datastore.blocks.elementBudget("", 1)-elementSize("/b/0", nil)-i)
			a.must(batch.Put(ctx, ds.NewKey(fmt.Sprint("/b/", i)), value))
		}
		a.must(batch.Commit(ctx))
		converge(t, a, b)
	}
}
