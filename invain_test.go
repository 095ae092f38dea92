package crdt

import (
	"testing"
	"time"
)

// What comes once a take has begun is not merged, and would stay for ever: no row says that it
// is here.
func TestTakeRemovesWhatWasFetchedInVain(t *testing.T) {
	for _, keep := range []time.Duration{0, time.Hour} {
		s := newTakeTest(t, manyVersions)
		f := s.author.snapshot("")
		c := f.publish(t, s.server)
		s.serve(t, f.links[0])
		r := s.net.newReplica(t, func(o *Options) { o.KeepHistory = keep })
		by, cp := r.beginTake(c)
		r.fetcher.announce([]announced{{link: link{id: f.links[0]}}}) // past the listener, as if it had been asked for before
		waitFor(t, "the block to be noticed", func() bool {
			r.fetcher.mu.Lock()
			defer r.fetcher.mu.Unlock()
			return r.fetcher.inVain[f.links[0]]
		})
		r.must(by.take(ctx, cp.id))
		if stays := r.node.raw(f.links[0]) != nil; stays != (keep == 0) {
			t.Errorf("history is kept for %s, and the block stays: %v", keep, stays)
		}
	}
}

// A false checkpoint can cover what others have put into the same DAG service.
func TestFalseCheckpointRemovesNothingOfOthers(t *testing.T) {
	net := newTestNet()
	liar, r := net.node(), net.newReplica(t, silent, func(o *Options) { o.KeepHistory = time.Hour })
	foreign := idOf(r.node.forge(t, []byte("of somebody else")))
	s := &testSnapshot{links: []blockID{foreign}, cover: []blockID{foreign}, height: 1}
	c := s.publish(t, liar)
	r.node.deliver(announcement(c))
	r.awaitCheckpoint(c, checkpointHeld)
	if r.node.raw(foreign) == nil {
		t.Error("it is gone")
	}
}
