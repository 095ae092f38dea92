package crdt

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
)

// An endedNode is the end of a network whose broadcasts have ended.
type endedNode struct {
	*testNode
	asked atomic.Int64
}

func (n *endedNode) Broadcast(context.Context, []byte) error {
	n.asked.Add(1)
	return ErrNoMoreBroadcast
}

func (n *endedNode) Next(context.Context) ([]byte, error) { return nil, ErrNoMoreBroadcast }

// When the broadcasts have ended, nothing is announced any more and nothing kept for it.
// What was written meanwhile is announced after the next start.
func TestNothingIsAnnouncedAfterTheEndOfTheBroadcasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		a, b := net.newReplica(t, silent), net.newReplica(t)
		a.must(a.Close())
		ended := &endedNode{testNode: a.node}
		m, err := NewMerkleCRDT(a.store, testNamespace, a.node, ended, a.opts, nil)
		a.must(err)
		a.MerkleCRDT = m
		for range 10 {
			a.put("/k", "v")
			time.Sleep(retryPause)
		}
		if n := ended.asked.Load(); n != 1 {
			t.Errorf("%d broadcasts were tried", n)
		}
		a.announcer.mu.Lock()
		if n := len(a.announcer.pending) + len(a.announcer.fresh); n > 0 {
			t.Errorf("%d blocks wait to be announced", n)
		}
		a.announcer.mu.Unlock()
		begun := time.Now()
		a.must(a.Close())
		if took := time.Since(begun); took > closeTimeout/2 {
			t.Errorf("Close took %s", took)
		}
		a.open()
		converge(t, a, b)
	})
}

// Programs end the broadcaster's context before they close the datastore.
func TestCloseAfterTheEndOfThePubSubBroadcaster(t *testing.T) {
	t.Parallel()
	na, nb := newPubsubTestNode(t), newPubsubTestNode(t)
	bcast, end := na.broadcaster(t)
	other, _ := nb.broadcaster(t)
	a := &replica{t: t, store: newAtomicStore(), node: newTestNet().node(), opts: testOptions()}
	open := func(bcast Broadcaster) {
		m, err := NewMerkleCRDT(a.store, testNamespace, a.node, bcast, a.opts, nil)
		a.must(err)
		a.MerkleCRDT = m
	}
	open(bcast)
	end()
	a.put("/k", "v")
	head := a.head()
	a.must(a.Close())
	_, err := bcast.Next(pubsubTestContext(t)) // until the topic is free
	pubsubTestWant(t, err, ErrNoMoreBroadcast)
	na.connect(t, nb)
	bcast, _ = na.broadcaster(t)
	open(bcast)
	defer a.Close()
	for heard := false; !heard; {
		msg, err := other.Next(pubsubTestContext(t))
		pubsubTestOK(t, err)
		heads, _ := decodeBroadcast(msg)
		for _, h := range heads {
			heard = heard || h.id.Cid() == head
		}
	}
}

func TestAnnouncedAgainForThoseWhoMissedIt(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.drop = 1
	a.put("/k", "v")
	waitFor(t, "the lost announcement", func() bool { net.mu.Lock(); defer net.mu.Unlock(); return a.node.sent > 0 })
	net.heal()
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

// The next round may be hours away: until then what others know of the present heads is kept,
// and little else.
func TestSeenHeadsDoNotPileUp(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 2 * maxUnmerged {
		r.put("/k", fmt.Sprint(i))
		id, err := blockIDOf(r.head())
		r.must(err)
		r.announcer.sawHead(id)
	}
	r.announcer.mu.Lock()
	defer r.announcer.mu.Unlock()
	if n := len(r.announcer.seen); n > maxUnmerged+2 {
		t.Errorf("%d blocks are remembered, and there is one head", n)
	}
}

func TestCloseAnnouncesWhatIsLeft(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.BroadcastBatchDelay = time.Hour })
	b := net.newReplica(t)
	a.put("/k", "v")
	a.must(a.Close())
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

func TestWritesWithinBroadcastBatchDelayShareAnAnnouncement(t *testing.T) {
	synctest.Test(t, shareAnAnnouncement)
}

func shareAnAnnouncement(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.BroadcastBatchDelay = 300 * time.Millisecond; o.RebroadcastInterval = time.Hour })
	b := net.newReplica(t)
	for i := range 50 {
		a.put(fmt.Sprint("/", i), "v")
		time.Sleep(5 * time.Millisecond) // of fake time
	}
	converge(t, a, b)
	net.mu.Lock()
	defer net.mu.Unlock()
	if a.node.sent > 2 {
		t.Errorf("50 writes made %d announcements", a.node.sent)
	}
}

// A message larger than one carries is split.
func TestManyHeadsAreAnnouncedInSeveralMessages(t *testing.T) {
	if _, err := decodeBroadcast(announcement(make([]cid.Cid, 0)...)); err != nil {
		t.Fatal(err)
	}
	var cids []cid.Cid
	for i := range maxHeadsPerMessage + 10 {
		cids = append(cids, unavailable(i))
	}
	ids, err := decodeBroadcast(announcement(cids...))
	if err != nil || len(ids) != maxHeadsPerMessage {
		t.Errorf("%d heads of one message were taken: %v", len(ids), err)
	}
}

// A joinNode is a node that is told when peers come.
type joinNode struct {
	*testNode
	joins chan struct{}
}

func (n *joinNode) Joined(ctx context.Context) error {
	select {
	case <-n.joins:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A replica greets peers that come with its heads, unless another one has just
// done so. Fake time shows what is not said.
func TestPeersThatComeAreGreetedByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		opts := DefaultOptions()
		opts.RebroadcastInterval = time.Hour
		open := func() (*Datastore, *joinNode) {
			node := &joinNode{net.node(), make(chan struct{})}
			d, err := New(newAtomicStore(), testNamespace, node, node, opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d, node
		}
		a, na := open()
		b, nb := open()
		if err := a.Put(ctx, ds.NewKey("/k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		newcomer, _ := open()
		said := na.sent + nb.sent
		na.joins <- struct{}{}
		nb.joins <- struct{}{}
		time.Sleep(time.Minute) // of fake time
		synctest.Wait()
		for _, d := range []*Datastore{b, newcomer} {
			if v, err := d.Get(ctx, ds.NewKey("/k")); string(v) != "v" {
				t.Errorf("/k is %q: %v", v, err)
			}
		}
		if n := na.sent + nb.sent - said; n != 1 {
			t.Errorf("%d replicas spoke", n)
		}
	})
}

// A newcomer hears of the newest checkpoint with the heads. If it found that by walking, it
// would have fetched by then what the skip links lead to of those who had not heard of it yet.
func TestNewcomerHearsOfTheNewestCheckpoint(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	write := func(r *replica, n int) {
		for i := range n {
			r.put(fmt.Sprint("/k", i%10), fmt.Sprint(i))
		}
	}
	write(a, 500)
	converge(t, a, b)
	b.node.away(true)
	cp := a.checkpoint()
	covered := a.snapshot("").cover // and the checkpoint
	write(b, 300)
	b.node.away(false)
	converge(t, a, b)
	write(a, 200)
	newcomer := net.newReplica(t)
	a.announcer.announceHeads(time.Now())
	converge(t, a, b, newcomer)
	newcomer.awaitCheckpoint(cp.Cid, checkpointHeld)
	fetched := 0
	for _, id := range covered {
		if newcomer.node.raw(id) != nil {
			fetched++
		}
	}
	if fetched > len(covered)/10 {
		t.Errorf("%d of %d covered blocks were fetched", fetched, len(covered))
	}
}

// A head that has just been announced is repeated only once a round has passed in which nobody
// announced it, also by those who did not know it then. Fake time shows what is not said.
func TestFreshHeadIsNotRepeatedInTheSameRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		opts := DefaultOptions()
		opts.RebroadcastInterval = time.Hour
		a, b := net.node(), net.node()
		open := func(node *testNode) *Datastore {
			d, err := New(newAtomicStore(), testNamespace, node, node, opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d
		}
		sent := func() int { net.mu.Lock(); defer net.mu.Unlock(); return b.sent }
		writer, _ := open(a), open(b)
		time.Sleep(30 * time.Minute)
		if err := writer.Put(ctx, ds.NewKey("/k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.away(true) // it would repeat the head itself
		time.Sleep(50 * time.Minute)
		if n := sent(); n > 0 {
			t.Errorf("%d messages in the round in which the head was announced", n)
		}
		time.Sleep(80 * time.Minute)
		if sent() == 0 {
			t.Error("the head is not repeated in the next round")
		}
	})
}
