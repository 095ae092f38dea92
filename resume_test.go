package crdt

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	query "github.com/ipfs/go-datastore/query"
)

// Queue rows that found no room are looked at soon, however seldom heads are announced.
func TestQueueRowsWithoutRoomAreLookedAtWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFetcher(ctx, nil, &Options{NumWorkers: 1, RebroadcastInterval: 24 * time.Hour}, newSizeClasses(1))
		f.tell((*scheduler).readLater)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(f.unread) == 0 {
			t.Error("the rows are not looked at")
		}
		f.stop()
	})
}

// Queue rows that cannot be read after a commit of which nobody was told are read later.
func TestQueueRowsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, store := newTestNet(), newFaultyStore()
		var toFail, failed atomic.Bool
		store.onQuery = func(q query.Query) error {
			if !strings.HasSuffix(q.Prefix, "/q") || !toFail.CompareAndSwap(true, false) {
				return nil
			}
			failed.Store(true)
			return errFault
		}
		r := net.newReplicaOn(t, store, silent)
		liar := net.node()
		child := liar.forgePriority(t, 1)
		top := liar.forgePriority(t, 2, child)
		toFail.Store(true)
		store.failIn(0, 1, true)
		r.node.deliver(announcement(top))
		time.Sleep(time.Minute)
		if !failed.Load() || r.state(top) != complete {
			t.Errorf("reading the rows has failed: %v; the block above is %v", failed.Load(), r.state(top))
		}
	})
}

// A replica that is closed in the middle of fetching goes on from there: it
// reads the blocks that it lacks, and no others.
func TestRestartResumesFetching(t *testing.T) {
	const total = 400
	net := newTestNet()
	a := net.newReplica(t)
	for i := range total {
		a.put(fmt.Sprintf("/%d", i), "v")
	}
	b := net.newReplica(t)
	waitFor(t, "half of the history", func() bool { return len(b.rowsUnder("/b")) > total/2 })
	b.must(b.Close())
	merged := len(b.rowsUnder("/b"))
	if merged == total {
		t.Skip("all was fetched before Close")
	}
	net.mu.Lock()
	b.node.requests = 0
	net.mu.Unlock()
	b.open()
	converge(t, a, b)
	net.mu.Lock()
	defer net.mu.Unlock()
	if got, want := b.node.requests, total-merged; got > want+2*fetchesPerWorker {
		t.Errorf("%d blocks were missing, and %d requests made", want, got)
	}
}
