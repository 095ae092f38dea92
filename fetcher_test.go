package crdt

import (
	"fmt"
	"testing"

	"github.com/ipfs/go-ds-crdt/pb"
)

func TestMissingBlockStallsNothingButItsOwnRoot(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	liar := net.node()
	a.put("/1", "v")
	converge(t, a, b)
	// A root above honest history and above a block that nobody has.
	heads := a.InternalStats(ctx).Heads
	stuck := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 5, Elements: oneElement("/stuck")}), heads[0].Cid, unavailable(0))
	b.node.deliver(announcement(stuck))
	waitFor(t, "the root's own pair", func() bool { return b.get("/stuck") == "evil" })
	for i := range 10 {
		a.put("/2", fmt.Sprint(i))
		b.put("/3", fmt.Sprint(i))
	}
	waitFor(t, "honest replicas to converge", func() bool {
		first, _ := a.frontier.get()
		second, _ := b.frontier.get()
		return fmt.Sprint(first.list()) == fmt.Sprint(second.list()) && a.get("/3") == "9" && b.get("/2") == "9"
	})
	for _, h := range b.InternalStats(ctx).Heads {
		if h.Cid.Equals(stuck) {
			t.Error("a root with missing history became a head")
		}
	}
	if ok, _ := b.IsProcessed(ctx, stuck); !ok {
		t.Error("the stuck root has not been merged")
	}
	if h := b.InternalStats(ctx).MaxHeight; h < 6 {
		t.Errorf("height %d is not above the root that is being fetched", h)
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

// A replica that is closed in the middle of fetching goes on from there: it
// reads the blocks that it lacks, and no others.
func TestRestartResumesTheWalk(t *testing.T) {
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
