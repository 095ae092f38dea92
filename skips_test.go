package crdt

import (
	"fmt"
	"math/bits"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// With skip links a newcomer learns of old blocks early: it does not go down
// the history one round trip a block. On fake time, only round trips count.
func TestNewcomerFetchesHistoryInFewRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks, delay = 1000, 5 * time.Millisecond
		net := newTestNet()
		a := net.newReplica(t)
		for i := range blocks {
			if i == blocks/2 {
				a.restart()
				synctest.Wait() // it finds the targets of its links again
			}
			a.put(fmt.Sprintf("/%d", i%50), fmt.Sprint(i))
		}
		net.mu.Lock()
		net.delay = delay
		net.mu.Unlock()
		b := net.newReplica(t)
		waitFor(t, "the newcomer to hear of the history", func() bool { return b.node.asked() > 0 })
		begun := time.Now()
		converge(t, a, b)
		if trips := time.Since(begun) / delay; trips > 20 {
			t.Errorf("%d blocks took %d round trips", blocks, trips)
		}
	})
}

// After a restart a replica finds the targets of its next skip links, whatever
// the height, and reads O(log n) blocks for it.
func TestRecallFindsAllTargetsInFewReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t)
		for h := 1; h <= 600; h++ {
			r.must(r.Close())
			before := r.node.requests
			r.open()
			synctest.Wait()
			if reads := r.node.requests - before; reads > 2*bits.Len(uint(h))+2 {
				t.Errorf("opening a history of %d blocks read %d", h-1, reads)
			}
			r.put("/k", fmt.Sprint(h))
			if got, want := r.skipsOfHead(), len(skipHeights(uint64(h))); got != want {
				t.Errorf("block %d has %d skip links, want %d", h, got, want)
			}
		}
	})
}

// A block that is purged and comes again, without what is below it, while a start looks
// for the targets of skip links, is none: a head of which it is said that all below it is
// here must not be built on it.
func TestRecallLeavesOutWhatHasBeenPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t)
		for i := range 3 {
			r.put("/k", fmt.Sprint(i))
		}
		top := r.head()
		raw := r.node.raw(idOf(top))
		gate := &gatedDAG{DAGService: localDAG{r.node}, of: top, open: make(chan struct{})}
		r.reopenWith(gate, nil)
		synctest.Wait()
		r.purgeDAG("", 3)
		r.must(r.node.addRaw(top, raw))
		b, err := r.Datastore.blocks.decode(idOf(top), raw)
		r.must(err)
		r.must(r.committer.do(ctx, func(c *commit) error { return c.merge(ctx, b) }))
		close(gate.open)
		synctest.Wait()
		r.must(r.committer.acquire(ctx))
		defer r.committer.release()
		if len(r.committer.skips) > 0 {
			t.Errorf("targets of skip links: %v", r.committer.skips)
		}
	})
}

func (r *replica) skipsOfHead() int {
	r.t.Helper()
	id, err := blockIDOf(r.head())
	r.must(err)
	b, err := r.Datastore.blocks.fetchBlock(ctx, link{id: id})
	r.must(err)
	return b.skips
}

// Every block of a history of n is O(log n) links away from the newest, and
// has less than one skip link on average.
func TestSkipLinksMakeHistoryShallow(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 1000, 1023, 1024, 99_999, 1<<17 - 1} {
		steps, links := make([]int, n+1), 0
		for h := n; h > 1; h-- {
			skips := skipHeights(uint64(h))
			links += len(skips)
			for _, to := range append(skips, uint64(h-1)) {
				if s := steps[h] + 1; steps[to] == 0 || s < steps[to] {
					steps[to] = s
				}
			}
		}
		if deepest := slices.Max(steps); deepest > 2*bits.Len(uint(n))+2 {
			t.Errorf("a block of %d is %d steps away", n, deepest)
		}
		if links > n/2+1 {
			t.Errorf("%d skip links in %d blocks", links, n)
		}
	}
}

// A peer may put blocks of any height below one of its own. What they say about
// skip links is forgotten when it turns out to be above the heads.
func TestFalseHeightsDoNotEndSkipLinks(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	for i := range 20 {
		r.put("/k", fmt.Sprint(i))
	}
	liar := net.node()
	below := []cid.Cid{r.head()}
	for k := range 40 {
		for _, h := range []uint64{1<<50 + 1<<k, 1<<50 + 1<<(k+1) + 1<<k - 1} {
			below = append(below, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: h})))
		}
	}
	top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1}), below...)
	r.node.deliver(announcement(top))
	waitFor(t, "the liar's block", func() bool { return r.state(top) == complete })
	skips := 0
	for i := range 100 {
		r.put("/k", fmt.Sprint(i))
		skips += r.skipsOfHead()
	}
	if skips < 20 {
		t.Errorf("%d skip links in 100 blocks", skips)
	}
}

// Peers may invent any number of DAGs. They displace each other, and not the
// unnamed one.
func TestSkipsAreBounded(t *testing.T) {
	s := make(skips)
	for h := range uint64(1000) {
		s.note("", h+1, testID(int(h)))
	}
	want := s.targetsOf("", 1023, nil)
	for i := range 3 * maxSlots {
		s.note(fmt.Sprint(i), 1, testID(i))
	}
	if len(s) > maxSlots {
		t.Errorf("%d slots, the limit is %d", len(s), maxSlots)
	}
	if got := s.targetsOf("", 1023, nil); !slices.Equal(got, want) || len(got) == 0 {
		t.Errorf("the unnamed DAG has %d targets left of %d", len(got), len(want))
	}
}

func TestRecallReadsSomeOfManyHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t)
		liar := net.node()
		var heads []cid.Cid
		for i := range maxRecall + 200 {
			heads = append(heads, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement(fmt.Sprint("/", i))})))
		}
		r.node.deliver(announcement(heads...))
		waitFor(t, "many heads", func() bool { n, _ := r.Heads().Len(ctx); return n == len(heads) })
		r.must(r.Close())
		before := r.node.requests
		r.open()
		synctest.Wait()
		if reads := r.node.requests - before; reads > maxRecall {
			t.Errorf("recall read %d blocks, the limit is %d", reads, maxRecall)
		}
	})
}

func TestManySkipLinksLeadDownward(t *testing.T) {
	b := &block{delta: &deltaContent{priority: 1 << 40}, links: make([]blockID, 200), skips: 199}
	for i := range b.links {
		if h := b.heightBelow(i); h >= 1<<40 {
			t.Fatalf("below link %d the height is %d", i, h)
		}
	}
}
