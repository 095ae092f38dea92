package crdt

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func every(n int) func(*Options) {
	return func(o *Options) { o.CheckpointEvery = n }
}

// newestHeld returns the highest checkpoint that a replica holds; nil: none.
func (r *replica) newestHeld() (newest *checkpoint) {
	for _, cp := range r.frontier.checkpoints().held() {
		if newest == nil || cp.tip.Height > newest.tip.Height {
			newest = cp
		}
	}
	return newest
}

func TestCheckpointsAreMadeOnTheirOwn(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t, every(10)), net.newReplica(t)
	for i := range 9 {
		a.put(fmt.Sprint("/a", i), "")
	}
	if n := a.InternalStats(ctx).LastCheckpoint.BlocksSince; n != 9 || a.newestHeld() != nil {
		t.Errorf("grown by %d, with %v", n, a.newestHeld())
	}
	a.put("/b", "")
	for _, r := range []*replica{a, b} {
		waitFor(t, "a checkpoint", func() bool { return r.newestHeld() != nil })
	}
	first := a.newestHeld()
	for i := range 30 {
		a.put(fmt.Sprint("/c", i), "")
	}
	waitFor(t, "another one", func() bool { return b.newestHeld().tip.Height > first.tip.Height })
}

// What has grown by enough when it is opened gets its checkpoint too.
func TestCheckpointIsDueAtTheStart(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 10 {
		r.put(fmt.Sprint("/a", i), "")
	}
	r.opts.CheckpointEvery = 10
	r.restart()
	waitFor(t, "a checkpoint", func() bool { return r.newestHeld() != nil })
	waitFor(t, "the count to begin anew", func() bool { return r.committer.grown.blocks.Load() == 0 })
}

// Replicas wait for a random while: what one has made, the others need not make.
func TestCheckpointOfAnotherIsEnough(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, every(5), func(o *Options) { o.RebroadcastInterval = 1000 * time.Hour })
	b := net.newReplica(t)
	for i := range 7 {
		b.put(fmt.Sprint("/a", i), "")
	}
	waitFor(t, "one to be due", func() bool { return a.committer.grown.blocks.Load() >= 5 })
	head := b.checkpoint()
	a.awaitHeld(head)
	if n := a.committer.grown.blocks.Load(); n != 0 {
		t.Errorf("grown by %d still", n)
	}
}

// Who has written all that is to be covered has nobody to wait for.
func TestLoneWriterMakesItsCheckpointAtOnce(t *testing.T) {
	r := newTestNet().newReplica(t, every(5), func(o *Options) { o.RebroadcastInterval = 1000 * time.Hour })
	for i := range 5 {
		r.put(fmt.Sprint("/a", i), "")
	}
	waitFor(t, "a checkpoint", func() bool { return r.newestHeld() != nil })
}

// Between the first one of any number of replicas and the next ones there is time to hear of it.
func TestFewMakeACheckpointAtATime(t *testing.T) {
	const trials, soon = 2000, 0.04 // of the longest wait: a second of half a minute
	for _, n := range []int{2, 20, 200} {
		together := 0
		for range trials {
			shares := make([]float64, n)
			for i := range shares {
				shares[i] = randomShare()
			}
			first := slices.Min(shares)
			for _, s := range shares {
				if s < 0 || s > 1 {
					t.Fatalf("a share of %g", s)
				}
				if s > first && s < first+soon {
					together++
				}
			}
		}
		if mean := float64(together) / trials; mean > 0.5 {
			t.Errorf("%.2f of %d replicas come right after the first one", mean, n)
		}
	}
}

// A replica that has folded a checkpoint while that of a peer came gives up its own, and what
// it has written for that.
func TestCheckpointIsLeftToAPeer(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 30 {
		r.put(fmt.Sprint("/a", i), "")
	}
	job := r.byHand("")
	for left := range 2 { // at the start, and after the fold
		blocks, asked := r.countBlocks(), 0
		_, err := job.checkpointDAG(ctx, "", func() bool { asked++; return asked > left })
		if !errors.Is(err, errLeftToPeer) || r.newestHeld() != nil {
			t.Fatalf("it is %v, with %v", r.newestHeld(), err)
		}
		if n := r.countBlocks() - blocks; n != 0 {
			t.Errorf("%d blocks more", n)
		}
	}
}
