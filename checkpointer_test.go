package crdt

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// Of whatever there is much to do, the rest waits for one piece at most.
func TestChoresTakeTurns(t *testing.T) {
	order := ""
	times := func(name string, n int) *chore {
		return &chore{do: func(context.Context) (bool, error) {
			if n == 0 {
				return false, nil
			}
			n--
			order += name
			return true, nil
		}}
	}
	c := newFoldWorld(t, 1).chores
	c.all = []*chore{times("check ", 4), times("drop ", 2)}
	c.workOff()
	if order != "check drop check drop check check " {
		t.Error(order)
	}
}

// A chore that fails is not tried again at once, though there may be something new to do,
// and keeps no other from being done.
func TestFailedChorePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed, done atomic.Int64
		c := newFoldWorld(t, 1).chores
		o := testOptions()
		silent(o)
		c.log = o.Logger
		c.all = []*chore{
			{do: func(context.Context) (bool, error) { failed.Add(1); return true, errors.New("no") }},
			{do: func(context.Context) (bool, error) { done.Add(1); return false, nil }},
		}
		for range 5 {
			c.wake()
			synctest.Wait()
		}
		if failed.Load() != 1 || done.Load() != 5 {
			t.Errorf("tried %d times, and the other %d times", failed.Load(), done.Load())
		}
		time.Sleep(retryPause)
		synctest.Wait()
		if failed.Load() != 2 {
			t.Errorf("tried %d times after a pause", failed.Load())
		}
		c.stop()
		time.Sleep(retryPause)
	})
}

// pendingCheckpoint has a liar announce a checkpoint above a block that nobody has, with
// a snapshot that nobody has either.
func (r *replica) pendingCheckpoint(liar *testNode, n int) {
	r.t.Helper()
	name := snapshotName{versions: testID(n), cover: testID(n + 100), entries: 1, bytes: 1, blocks: 1}
	d := &pb.Delta{Priority: 1<<40 + uint64(n), Checkpoint: name.message()}
	r.awaitMerged(r.offer(liar, d, unavailable(n)))
}

// Takes in vain, which liars can go on with for ever, keep nothing else from being done.
func TestVainTakesLeaveTimeForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, every(5), func(o *Options) { o.RebroadcastInterval, o.DAGSyncerTimeout = time.Minute, 5*time.Minute })
		r.put("/a", "1")
		liar := net.node()
		for i := range 6 {
			r.pendingCheckpoint(liar, i)
		}
		r.overwrite(0, 20)
		time.Sleep(5 * time.Minute)
		if r.newestHeld() == nil {
			t.Error("no checkpoint has been made")
		}
		tries := 0
		for _, p := range r.checkpointer.putOff { // nobody works now
			tries += p.times
		}
		if tries > 6*4 {
			t.Errorf("%d takes were tried", tries)
		}
	})
}

// A checkpoint that can be taken does not wait for all those below it that cannot, such as
// honest ones of long ago that nobody holds any more.
func TestVainTakesLetTheHighestBeTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.RebroadcastInterval, o.DAGSyncerTimeout = time.Minute, 5*time.Minute })
		peer := net.node()
		for i := range 30 { // the first one is wanted before any other is known
			r.pendingCheckpoint(peer, i)
		}
		lost := idOf(unavailable(0))
		s := &testSnapshot{links: []blockID{lost}, height: 1 << 41, cover: []blockID{lost}}
		c := s.publish(t, peer)
		r.node.deliver(announcement(c))
		r.awaitMerged(c)
		time.Sleep(3 * pagePatience)
		if r.newestHeld() == nil {
			t.Error("the highest checkpoint has not been taken")
		}
	})
}

// Who sends the pages of a snapshot one by one does not keep others from their jobs.
func TestTricklingPagesMakeWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 5 * time.Minute })
		liar := net.node()
		cover := make([]blockID, 40*leafIDs)
		for i := range cover {
			cover[i] = blockID{0: byte(i >> 16), 1: byte(i >> 8), 2: byte(i)}
		}
		s := &testSnapshot{links: []blockID{idOf(unavailable(0))}, height: 1 << 40, cover: cover}
		c := s.publish(t, liar)
		net.mu.Lock()
		net.delay = pagePatience - time.Second
		net.mu.Unlock()
		r.node.deliver(announcement(c))
		r.awaitMerged(c)
		time.Sleep(time.Second)
		begun := time.Now()
		_, end, err := r.checkpointer.begin(ctx, "")
		r.must(err)
		end()
		if waited := time.Since(begun); waited > 2*pagePatience {
			t.Errorf("another job has waited for %s", waited)
		}
	})
}

// Whatever liars send, checking it takes a quarter of the time, and honest checkpoints
// are made and held meanwhile.
func TestFalseCheckpointsTakeAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		liar, r := net.node(), net.newReplica(t, silent)
		r.overwrite(0, 5)
		name := r.sound().snapshot
		const lies, blocks = 20, 5
		net.mu.Lock()
		net.delay = time.Second // so that each takes at least a second for each block
		net.mu.Unlock()
		begun := time.Now()
		links := []cid.Cid{r.head()}
		for i := range lies {
			name.entries++
			r.offer(liar, &pb.Delta{Priority: uint64(100 + i), Checkpoint: name.message()}, links...)
		}
		for r.InternalStats(ctx).VoidCheckpoints < lies && time.Since(begun) < time.Hour {
			time.Sleep(time.Second)
		}
		if took, least := time.Since(begun), (lies-1)*blocks*(1+restShare)*time.Second; took < least {
			t.Errorf("%d were checked in %s, want %s at least", lies, took, least)
		}
	})
}

// A true checkpoint does not wait for all false ones below it.
func TestVainChecksLetTheHighestBeChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		liar, r := net.node(), net.newReplica(t, silent)
		r.overwrite(0, 5)
		name := r.sound().snapshot
		net.mu.Lock()
		net.delay = time.Second // so that all are there once the first has been checked
		net.mu.Unlock()
		links := []cid.Cid{r.head()}
		for i := range 30 {
			name.entries++
			r.awaitMerged(r.offer(liar, &pb.Delta{Priority: uint64(100 + i), Checkpoint: name.message()}, links...))
		}
		r.node.deliver(announcement(r.snapshot("").publish(t, liar)))
		for begun := time.Now(); r.newestHeld() == nil && time.Since(begun) < time.Hour; {
			time.Sleep(time.Second)
		}
		if n := r.InternalStats(ctx).VoidCheckpoints; r.newestHeld() == nil || n > 5 {
			t.Errorf("%d false ones were checked first", n)
		}
	})
}

// The pause after a check in vain follows from how long that took, but only so far: a peer
// may be slow on purpose.
func TestPauseAfterALongCheckIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r, peer := net.newReplica(t, silent), net.node()
		c := r.offer(peer, putDelta(1, "/k", "v"))
		for i := range 110 { // without skip links
			c = r.offer(peer, putDelta(uint64(i+2), "/k", "v"), c)
		}
		r.awaitMerged(c)
		name := r.sound().snapshot
		name.entries++
		net.mu.Lock()
		net.delay = foldPatience - time.Second
		net.mu.Unlock()
		r.awaitMerged(r.forgeCheckpoint(peer, name).Cid)
		begun := time.Now()
		for r.InternalStats(ctx).VoidCheckpoints == 0 && time.Since(begun) < time.Hour {
			time.Sleep(time.Second)
		}
		took := time.Since(begun)
		time.Sleep(time.Minute) // it sweeps what it has folded
		synctest.Wait()
		if pause := time.Until(r.checkpointer.rest); took*restShare < maxRest || pause <= 0 || pause > maxRest {
			t.Errorf("the check took %s, and the pause takes %s", took, pause)
		}
	})
}

// A checkpoint that is due waits for one of a peer, but not for ever.
func TestCheckpointOfAPeerIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, walkHistory, every(5), func(o *Options) { o.RebroadcastInterval = time.Hour })
		r.pendingCheckpoint(net.node(), 1)
		r.overwrite(0, 5)
		time.Sleep(59 * time.Minute)
		if r.newestHeld() != nil {
			t.Error("one has been made though one of a peer may come")
		}
		time.Sleep(time.Hour)
		if r.newestHeld() == nil {
			t.Error("none has been made")
		}
	})
}

// What Close cuts off says so, as what is called afterwards does.
func TestCloseCutsOffWhatWaitsForAJob(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "1")
	_, end, err := r.checkpointer.begin(ctx, "")
	r.must(err)
	calls := []func() error{
		func() error { _, err := r.Checkpoint(ctx); return err },
		func() error { _, err := r.StateRoot(ctx); return err },
		func() error { _, err := r.Compact(ctx); return err },
		func() error { _, err := r.PurgeDAG(ctx, ""); return err },
	}
	ended := make(chan error)
	for _, call := range calls {
		go func() { ended <- call() }()
	}
	waitFor(t, "all to wait", func() bool { return r.checkpointer.waiting.Load() == int64(len(calls)) })
	r.must(r.Close())
	for range calls {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	end()
	for i, call := range calls {
		if err := call(); !errors.Is(err, ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
}

// A purge that was cut off, and cannot go on at the start, goes on later.
func TestPurgeThatWasCutOffIsTriedAgain(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	r.publishIn("x", "/a", "1")
	r.compactDAG("x")
	_, end, err := r.checkpointer.begin(ctx, "") // or it is gone on with now
	r.must(err)
	r.must(r.committer.do(ctx, func(c *commit) error { c.checkpoints.purge("x"); return nil }))
	r.must(r.Close())
	end()
	net.weather(netFaults{fail: 1})
	asked := func() int {
		net.mu.Lock()
		defer net.mu.Unlock()
		return r.node.requests
	}
	before := asked()
	r.open()
	waitFor(t, "a page to be asked for", func() bool { return asked() > before })
	net.heal()
	waitFor(t, "the purge to go on", func() bool { return len(r.rowsUnder("/a")) == 0 })
	_, err = r.PurgeDAG(ctx, "x") // which waits for its end
	r.must(err)
	r.checkPurged()
}

// What a purge ends says so.
func TestPurgeEndsACompaction(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.overwrite(0, 3)
	covered := r.head()
	r.checkpoint()
	gate := &gatedDAG{DAGService: r.node, of: covered, open: make(chan struct{})}
	r.reopenWith(gate, nil)
	compacted, purged := make(chan error), make(chan error)
	go func() { _, err := r.Compact(ctx); compacted <- err }()
	waitFor(t, "a block to be read", gate.waiting.Load)
	go func() { _, err := r.PurgeDAG(ctx, ""); purged <- err }()
	waitFor(t, "the purge to wait", func() bool {
		r.checkpointer.mu.Lock()
		defer r.checkpointer.mu.Unlock()
		return r.checkpointer.purging != nil
	})
	close(gate.open)
	if err := <-compacted; err != errPurging {
		t.Error(err)
	}
	r.must(<-purged)
}

// While pages are waited for, a check makes way for a take, and a take for a check.
func TestTakesAndChecksMakeWayForEachOther(t *testing.T) {
	net := newTestNet()
	liar, r := net.node(), net.newReplica(t, silent)
	c := r.checkpointer
	c.chores.stop() // nothing is done by itself from now on
	if c.verifier.isWaitedFor() || c.taker.isWaitedFor() {
		t.Error("something is to be done already")
	}
	r.pendingCheckpoint(liar, 0)
	if !c.verifier.isWaitedFor() || c.taker.isWaitedFor() {
		t.Error("a check does not make way for the take, or this for itself")
	}
	r.put("/a", "1")
	r.awaitMerged(r.forgeCheckpoint(liar, r.sound().snapshot).Cid)
	if !c.taker.isWaitedFor() {
		t.Error("a take does not make way for the check")
	}
}
