package crdt

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A gatedDelta holds up whoever decodes a large delta.
type gatedDelta struct {
	Delta
	gate *gate
}

type gate struct {
	mu        sync.Mutex
	now, most int
	open      chan struct{}
}

func (d *gatedDelta) Unmarshal(b []byte) error {
	if len(b) > 1<<20 {
		d.gate.mu.Lock()
		d.gate.now++
		d.gate.most = max(d.gate.most, d.gate.now)
		d.gate.mu.Unlock()
		<-d.gate.open
	}
	return d.Delta.Unmarshal(b)
}

// Small blocks that uncover values in a large one do not have it decoded for
// each of them at once.
func TestValuesAreReadWithinBounds(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	large := &pb.Delta{Priority: 1}
	for i := range 100 {
		large.Elements = append(large.Elements, oneElement(fmt.Sprint("/k", i))...)
	}
	for range 200_000 {
		large.Elements = append(large.Elements, &pb.Element{Key: "/a"})
	}
	r.awaitMerged(r.offer(liar, large))
	var uncover []cid.Cid
	for i := range 100 {
		key := fmt.Sprint("/k", i)
		over := r.offer(liar, &pb.Delta{Priority: 5, Elements: oneElement(key)})
		r.awaitMerged(over)
		uncover = append(uncover, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 6, Tombstones: []*pb.Element{tombstoneOf(t, key, over)}})))
	}
	g := &gate{open: make(chan struct{})}
	r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return &gatedDelta{newPBDelta(), g} }})
	r.node.deliver(announcement(uncover...))
	waitFor(t, "as many readers as there may be", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		return r.fetcher.scheduler.valued == maxValued
	})
	for range 1000 {
		runtime.Gosched() // those who can have begun to decode by now
	}
	g.mu.Lock()
	if g.most == 0 || g.most > 2 { // recall may read it as well
		t.Errorf("%d large blocks were decoded at once", g.most)
	}
	g.mu.Unlock()
	close(g.open)
}

// Of the blocks that wait, few hold values that were read for them.
func TestFewBlocksHoldValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.NumWorkers = 1; o.RebroadcastInterval = time.Minute })
		liar := net.node()
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: make([]byte, 1<<20)}}}))
		over := r.offer(liar, &pb.Delta{Priority: 5, Elements: oneElement("/k")})
		r.awaitMerged(over)
		links := []cid.Cid{liar.wideBlock(t, 1<<40)}
		for i := range 300 {
			d := &pb.Delta{Priority: uint64(10 + i)}
			for range 200 {
				d.Tombstones = append(d.Tombstones, tombstoneOf(t, "/k", over))
			}
			links = append(links, liar.forge(t, marshalDelta(t, d)))
		}
		top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1000}), links...)
		show := liar.hide(t, links...)
		r.node.deliver(announcement(top))
		time.Sleep(2 * time.Second)
		r.must(r.committer.acquire(ctx))
		show()
		time.Sleep(10 * time.Second)
		r.committer.release()
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			if n := r.haveValues(); n > maxValued {
				t.Fatalf("%d blocks hold values of 1 MiB each", n)
			}
		}
	})
}

func (r *replica) haveValues() (n int) {
	r.fetcher.mu.Lock()
	defer r.fetcher.mu.Unlock()
	for _, b := range r.fetcher.scheduler.missing {
		if len(b.values) > 0 {
			n++
		}
	}
	return n
}

// uncovering makes a block that removes the winners of some keys, each of which has
// a losing version of some size below, and sets one of them again.
func (r *replica) uncovering(liar *testNode, keys, size int) (c cid.Cid, want map[string]string) {
	want = make(map[string]string)
	d := &pb.Delta{Priority: 9, Elements: oneElement("/k0")}
	for i := range keys {
		key, value := fmt.Sprint("/k", i), strings.Repeat(fmt.Sprint(i%10), size)
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: key, Value: []byte(value)}}}))
		over := r.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement(key)})
		r.awaitMerged(over)
		d.Tombstones = append(d.Tombstones, tombstoneOf(r.t, key, over))
		want[key] = value
	}
	want["/k0"] = "evil"
	return liar.forge(r.t, marshalDelta(r.t, d)), want
}

// mostHeld announces a block, and returns how many bytes of older values were held
// for it at most until it was complete.
func (r *replica) mostHeld(c cid.Cid) (held int) {
	r.t.Helper()
	r.node.deliver(announcement(c))
	waitFor(r.t, "the block", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		for _, b := range r.fetcher.scheduler.missing {
			held = max(held, sizeOf(b.values))
		}
		return r.state(c) == complete
	})
	return held
}

// A small block can uncover any number of large values. No commit holds them all.
func TestUncoveredValuesAreCommittedInParts(t *testing.T) {
	const keys, size = 40, 400 << 10
	net := newTestNet()
	store := newFaultyStore()
	r := net.newReplicaOn(t, store, silent)
	liar := net.node()
	c, want := r.uncovering(liar, keys, size)
	store.maxBytes.Store(0)
	held := r.mostHeld(c)
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("%d pairs, not the %d that were uncovered", len(got), len(want))
	}
	if most := max(held, int(store.maxBytes.Load())); most > maxValueBytes+size+size/2 {
		t.Errorf("%d bytes of values were held or written at once", most)
	}
}

// Any number of versions of one key may have the same priority.
func TestBestValueOfAKeyAloneIsHeld(t *testing.T) {
	const n, size = 20, 100 << 10
	r := newTestNet().newReplica(t, silent)
	liar := r.node.net.node()
	for i := range n {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: []byte(fmt.Sprint(10+(7*i)%n) + strings.Repeat("x", size))}}}))
	}
	over := r.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement("/k")})
	r.awaitMerged(over)
	c := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 9, Tombstones: []*pb.Element{tombstoneOf(t, "/k", over)}}))
	held := r.mostHeld(c)
	if held > 2*size {
		t.Errorf("%d bytes of values were held", held)
	}
	if got := r.get("/k"); !strings.HasPrefix(got, fmt.Sprint(10+n-1)) {
		t.Errorf("the greatest value does not win, but %.5s", got)
	}
}

func TestBeatenValueIsReadAgainWhenTheBetterOneIsGone(t *testing.T) {
	r := newTestNet().newReplica(t, silent)
	liar := r.node.net.node()
	var ids []blockID
	for i, p := range []uint64{1, 1, 2} {
		c := r.offer(liar, &pb.Delta{Priority: p, Elements: []*pb.Element{{Key: "/k", Value: []byte(fmt.Sprint(i))}}})
		r.awaitMerged(c)
		id, err := blockIDOf(c)
		r.must(err)
		ids = append(ids, id)
	}
	names := missingValues{{"/k", ids[0]}, {"/k", ids[1]}}
	values, err := r.Datastore.blocks.someValues(ctx, names, nil, 0)
	r.must(err)
	if l := values[names[0]]; l.hasValue || *l.beatenBy != ids[1] {
		t.Fatalf("read %+v", l)
	}
	removed := &deltaContent{tombstones: tombstonesFor("/k", ids[1:])}
	err = r.committer.once(ctx, values, func(c *commit) error { return c.mergeSet(ctx, testID(9), removed) })
	if missing, ok := err.(missingValues); !ok || !slices.Equal(missing, names[:1]) {
		t.Errorf("the commit wants %v", err)
	}
	values, err = r.Datastore.blocks.someValues(ctx, names[:1], values, 0)
	r.must(err)
	if l := values[names[0]]; !l.hasValue || string(l.value) != "0" {
		t.Errorf("read again %+v", l)
	}
}

func TestKilledBetweenPartsOfABlock(t *testing.T) {
	for _, batching := range []bool{true, false} {
		for n := range 40 {
			t.Run(fmt.Sprintf("batching=%v/%d", batching, n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { killBetweenParts(t, n, batching) })
			})
		}
	}
}

func killBetweenParts(t *testing.T, writes int, batching bool) {
	net := newTestNet()
	mortal := newFaultyStore()
	var store ds.Datastore = mortal
	if !batching {
		store = plainStore{mortal}
	}
	r := net.newReplicaOn(t, store, silent)
	r.limitCommits(maxSpread, 1)
	liar := net.node()
	c, want := r.uncovering(liar, 10, 10)
	before := r.pairs()
	mortal.dieAfter(writes)
	r.node.deliver(announcement(c))
	synctest.Wait()
	_ = r.Close() // may have died
	mortal.heal()
	r.open()
	if maps.Equal(r.pairs(), before) {
		r.node.deliver(announcement(c))
	} // or else nobody has to tell of it again
	r.awaitMerged(c)
	if got := r.pairs(); !maps.Equal(got, want) {
		t.Errorf("pairs: %v, want %v", got, want)
	}
}

// The old module took blocks that break rules of ours. Their values count.
func TestValueIsReadFromAnOldBlockThatBreaksARule(t *testing.T) {
	for name, first := range map[string]*pb.Delta{
		"too large": {Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: []byte("v1")}, {Key: "/big", Value: make([]byte, 3<<20)}}},
		"DAG name":  {Priority: 1, DagName: "a/b", Elements: []*pb.Element{{Key: "/k", Value: []byte("v1")}}},
	} {
		t.Run(name, func(t *testing.T) {
			node := newTestNet().node()
			low := node.forge(t, marshalDelta(t, first))
			high := node.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: []*pb.Element{{Key: "/k", Value: []byte("v2")}}}))
			o := &oldStore{Rows: []oldRow{{"/crdt_version", []byte{2}}, {"/s/k/k/v", []byte("v2")}, {"/s/k/k/p", []byte{3}}}}
			for i, c := range []cid.Cid{low, high} {
				id, err := blockIDOf(c)
				if err != nil {
					t.Fatal(err)
				}
				o.Rows = append(o.Rows, oldRow{"/h" + id.dsKey(), []byte{byte(i + 1)}}, oldRow{"/b" + id.dsKey(), nil}, oldRow{"/s/s/k" + id.dsKey(), nil})
			}
			r := &replica{t: t, store: newAtomicStore(), node: node, opts: testOptions()}
			silent(r.opts)
			o.fill(t, r.store, testNamespace)
			r.open()
			defer r.Close()
			remove := r.offer(node.net.node(), &pb.Delta{Priority: 3, Tombstones: []*pb.Element{tombstoneOf(t, "/k", high)}, Elements: oneElement("/other")}, high)
			r.awaitMerged(remove)
			if r.get("/k") != "v1" || r.get("/other") != "evil" {
				t.Errorf("the pairs are %v", r.pairs())
			}
		})
	}
}

// A block of which a part shows is never given up, though it was just announced.
func TestBlockMergedInPartIsNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const keys = 3
		net := newTestNet()
		r := net.newReplica(t, silent)
		r.limitCommits(maxSpread, 1)
		liar := net.node()
		c, want := r.uncovering(liar, keys, 10)
		losers := r.rowsUnder("/s/l/%2Fk2")
		_, id, _ := splitID(losers[0].Key)
		show := liar.hide(t, id.Cid())
		r.must(r.node.Remove(ctx, id.Cid()))
		r.node.deliver(announcement(c))
		time.Sleep(time.Hour)
		if r.get("/k1") != want["/k1"] || r.state(c) != unknown {
			t.Fatalf("%v, %d", r.pairs(), r.state(c))
		}
		show()
		r.awaitMerged(c)
		if got := r.pairs(); !maps.Equal(got, want) {
			t.Errorf("pairs: %v, want %v", got, want)
		}
		r.must(r.Close())
		checkStore(t, r)
	})
}
