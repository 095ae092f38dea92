package crdt

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
