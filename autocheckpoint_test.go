package crdt

import (
	"fmt"
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
	waitFor(t, "the count to begin anew", func() bool { return r.committer.grown.Load() == 0 })
}

// Replicas wait for a random while: what one has made, the others need not make.
func TestCheckpointOfAnotherIsEnough(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, every(5), func(o *Options) { o.RebroadcastInterval = 1000 * time.Hour })
	b := net.newReplica(t)
	for i := range 7 {
		b.put(fmt.Sprint("/a", i), "")
	}
	waitFor(t, "one to be due", func() bool { return a.committer.grown.Load() >= 5 })
	head := b.checkpoint()
	a.awaitHeld(head)
	if n := a.committer.grown.Load(); n != 0 {
		t.Errorf("grown by %d still", n)
	}
}
