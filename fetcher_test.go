package crdt

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

func TestMissingBlockStallsOnlyItsOwnPendingHead(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	liar := net.node()
	a.put("/1", "v")
	converge(t, a, b)
	// A pending head above honest history and above a block that nobody has.
	heads := a.InternalStats(ctx).Heads
	stuck := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 5, Elements: oneElement("/stuck")}), heads[0].Cid, unavailable(0))
	b.node.deliver(announcement(stuck))
	waitFor(t, "the pending head's own pair", func() bool { return b.get("/stuck") == "evil" })
	for i := range 10 {
		a.put("/2", fmt.Sprint(i))
		b.put("/3", fmt.Sprint(i))
	}
	waitFor(t, "honest replicas to converge", func() bool {
		first, _ := a.frontier.tips()
		second, _ := b.frontier.tips()
		return fmt.Sprint(first.list()) == fmt.Sprint(second.list()) && a.get("/3") == "9" && b.get("/2") == "9"
	})
	for _, h := range b.InternalStats(ctx).Heads {
		if h.Cid.Equals(stuck) {
			t.Error("a pending head with missing history became a head")
		}
	}
	if ok, _ := b.IsProcessed(ctx, stuck); !ok {
		t.Error("the stuck pending head has not been merged")
	}
	if h := b.InternalStats(ctx).MaxHeight; h < 6 {
		t.Errorf("height %d is not above the pending head below which blocks are being fetched", h)
	}
}

func TestNewcomerFetchesHistory(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t)
	for i := range 300 {
		a.put(fmt.Sprintf("/%d", i%50), fmt.Sprint(i))
	}
	b := net.newReplica(t)
	if n := len(converge(t, a, b)); n != 50 {
		t.Errorf("%d pairs", n)
	}
}

// In fake time, since 80,000 links take a busy machine long.
func TestHonestHistoryArrivesBesideDeadLinks(t *testing.T) {
	synctest.Test(t, honestHistoryBesideDeadLinks)
}

func honestHistoryBesideDeadLinks(t *testing.T) {
	net := newTestNet()
	honest := net.newReplica(t)
	r := net.newReplica(t, func(o *Options) {
		o.DAGSyncerTimeout = patience // dead links fail soon
		o.RebroadcastInterval = 2 * time.Second
	})
	liar := net.node()
	net.split(0, 1, 1)
	for i := range 5 {
		honest.put("/k", fmt.Sprint(i))
	}
	for i := range 2 {
		var dead []cid.Cid
		for j := range 40_000 {
			dead = append(dead, unavailable(i*40_000+j))
		}
		r.offer(liar, &pb.Delta{Priority: 9, Elements: oneElement(fmt.Sprint("/evil", i))}, dead...)
	}
	// Both are merged, and nothing more is taken in.
	waitFor(t, "the scheduler to be full", func() bool { return r.fetcher.len() >= maxMissing })
	net.heal()
	waitFor(t, "the honest history", func() bool {
		return r.get("/k") == "4" && r.state(honest.head()) == complete
	})
}

func TestDroppedAnnouncementsLeaveNoMemoryBehind(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 20 {
		var heads []announced
		for j := range maxAnnounced {
			id, err := blockIDOf(unavailable(i*maxAnnounced + j))
			r.must(err)
			heads = append(heads, announced{link: link{id: id}})
		}
		r.fetcher.announce(heads)
	}
	r.fetcher.mu.Lock()
	defer r.fetcher.mu.Unlock()
	held := 0
	for _, l := range r.fetcher.scheduler.unknown.lines {
		held += len(l.places)
	}
	if missing := len(r.fetcher.scheduler.missing); held > missing {
		t.Errorf("%d blocks are wanted, %d are held", missing, held)
	}
}
