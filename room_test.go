package crdt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// hide takes blocks away from a node, until show is called.
func (node *testNode) hide(t *testing.T, cids ...cid.Cid) (show func()) {
	hidden := make(map[cid.Cid][]byte)
	for _, c := range cids {
		hidden[c] = node.blocks[c]
		if err := node.Remove(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for c, raw := range hidden {
			if err := node.addRaw(c, raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// wideBlock makes a block of such a height that links to many that nobody has.
func (node *testNode) wideBlock(t *testing.T, height uint64) cid.Cid {
	var links []cid.Cid
	for i := range 20_000 {
		links = append(links, unavailable(i))
	}
	return node.forge(t, marshalDelta(t, &pb.Delta{Priority: height}), links...)
}

// bulkyBlock makes a small block that takes much memory: 0.6 MiB.
func (node *testNode) bulkyBlock(t *testing.T, height uint64) cid.Cid {
	d := &pb.Delta{Priority: height}
	for range 2500 {
		d.Elements = append(d.Elements, &pb.Element{Key: "/a"})
	}
	return node.forge(t, marshalDelta(t, d))
}

// crowds counts the blocks that wait for room.
func (r *replica) crowds() (n int) {
	r.fetcher.mu.Lock()
	defer r.fetcher.mu.Unlock()
	for _, b := range r.fetcher.scheduler.missing {
		if b.state == crowded {
			n++
		}
	}
	return n
}

// A group with any number of blocks that nobody has must not keep room from
// others.
func TestRoomIsNotHeldByBlocksThatWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.NumWorkers = 1; o.RebroadcastInterval = time.Minute })
		liar := net.node()
		links := []cid.Cid{liar.wideBlock(t, 1<<40)}
		for i := range 100 {
			links = append(links, liar.bulkyBlock(t, uint64(10+i)))
		}
		top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1000}), links...)
		show := liar.hide(t, links...)
		r.node.deliver(announcement(top))
		time.Sleep(2 * time.Second) // the top is merged, and all below it asked for
		r.must(r.committer.acquire(ctx))
		show()
		time.Sleep(time.Second)
		if r.crowds() == 0 {
			t.Fatal("no block waits for room")
		}
		r.committer.release()
		time.Sleep(time.Minute)

		honest := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/honest")}))
		r.node.deliver(announceInline(honest, liar.blocks[honest]))
		time.Sleep(time.Second)
		if got := r.state(honest); got != complete {
			t.Errorf("after a second the honest block is in state %d", got)
		}
	})
}

// While a group has brought more blocks than there is room for, the block of
// another group need not wait for all of them.
func TestGroupsTakeTurnsForRoom(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	var links []cid.Cid
	for i := range 300 {
		links = append(links, liar.bulkyBlock(t, uint64(10+i)))
	}
	honest := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/honest")}))
	show := liar.hide(t, links...)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 5000}, links...))
	r.must(r.committer.acquire(ctx))
	show()
	waitFor(t, "a crowd", func() bool { return r.crowds() > 200 })
	before := r.crowds()
	r.node.deliver(announceInline(honest, liar.blocks[honest]))
	waitFor(t, "the honest block to join it", func() bool { return r.crowds() > before })
	r.committer.release()
	r.awaitMerged(honest)
	passed := 0
	for _, c := range links {
		if r.state(c) != unknown {
			passed++
		}
	}
	if passed > len(links)*3/4 {
		t.Errorf("%d blocks of another group were merged before", passed)
	}
}

// After any storm all room is free, and nobody waits.
func TestRoomComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, forbid)
		liar := net.node()
		liar.sound = true
		for round := range 3 {
			net.weather(netFaults{garble: 0.2, fail: 0.2, slow: time.Second, addFail: 0.2})
			for i := range 200 {
				r.storm(liar, round, i)
			}
			time.Sleep(5 * time.Second)
		}
		net.heal()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		for _, c := range []*sizeClass{r.fetcher.classes.small, r.fetcher.classes.large} {
			if c.used != 0 || len(c.crowd.lines) > 0 || len(c.queue) > 0 {
				t.Errorf("%d bytes are in use, %d groups wait, %d blocks are queued", c.used, len(c.crowd.lines), len(c.queue))
			}
		}
		for _, b := range r.fetcher.scheduler.missing {
			if !b.queued {
				t.Fatal("a block is left in state", b.state)
			}
		}
	})
}

// storm sends a block that may be small, bulky or large, good or bad, inline,
// to be fetched, or both.
func (r *replica) storm(liar *testNode, round, i int) {
	d := &pb.Delta{Priority: uint64(1 + i), DagName: []string{"", "", ".."}[i%3], Elements: oneElement([]string{"/k", "/forbidden/k", "/k"}[i%3])}
	for range []int{10, 2500, 8000}[i%3] {
		d.Elements = append(d.Elements, &pb.Element{Key: "/a"})
	}
	d.Elements[0].Value = fmt.Append(nil, round, i)
	c := liar.forge(r.t, marshalDelta(r.t, d), unavailable(i%50))
	if i%2 == 0 {
		r.node.deliver(announceInline(c, liar.blocks[c]))
	}
	if i%2 == 1 || i%5 == 0 {
		r.node.deliver(announcement(c))
	}
	if i%10 == 0 {
		time.Sleep(time.Millisecond)
	}
}

// Close in the midst of it all.
func TestCloseAmidCrowds(t *testing.T) { synctest.Test(t, closeAmidCrowds) }

func closeAmidCrowds(t *testing.T) {
	net := newTestNet()
	liar := net.node()
	var blocks []cid.Cid
	for i := range 200 {
		blocks = append(blocks, liar.bulkyBlock(t, uint64(10+i)))
	}
	for range 5 {
		r := net.newReplica(t, silent, func(o *Options) {
			o.CheckDelta = func(ctx context.Context, _ Head, _ Delta) error { return ctx.Err() }
		})
		r.must(r.committer.acquire(ctx)) // or else there is no crowd on a fast machine
		for _, c := range blocks {
			r.node.deliver(announcement(c))
		}
		waitFor(t, "a crowd", func() bool { return r.crowds() > 10 })
		r.committer.release()
		begun := time.Now()
		r.must(r.Close())
		if took := time.Since(begun); took > closeTimeout/2 {
			t.Errorf("Close took %s", took)
		}
		if _, err := r.Get(ctx, ds.NewKey("/x")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}
