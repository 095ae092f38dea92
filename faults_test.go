package crdt

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

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

func TestLegacyAnnouncementWithAForeignCodecStartsNothing(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.node.deliver(cid.NewCidV1(cid.Raw, unavailable(0).Hash()).Bytes())
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement("/k")})) // heard after the first
	waitFor(t, "the fetcher to have nothing to do", func() bool { return r.fetcher.len() == 0 })
}
