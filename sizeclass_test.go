package crdt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// greedyBlocks take as much memory for their size as a block can.
func greedyBlocks(t *testing.T) map[string][]byte {
	delta := func(d *pb.Delta) []byte { d.Priority = 1; return marshalDelta(t, d) }
	repeat := func(e *pb.Element, n int) []*pb.Element {
		all := make([]*pb.Element, n)
		for i := range all {
			all[i] = e
		}
		return all
	}
	links := make([]cid.Cid, 7_000)
	for i := range links {
		links[i] = unavailable(i)
	}
	liar := newTestNet().node()
	forge := func(data []byte, links ...cid.Cid) []byte { return liar.blocks[liar.forge(t, data, links...)] }
	return map[string][]byte{
		"nothing":        forge(delta(&pb.Delta{})),
		"one-byte keys":  forge(delta(&pb.Delta{Elements: repeat(&pb.Element{Key: "/a"}, 100_000)})),
		"empty elements": forge(delta(&pb.Delta{Elements: repeat(&pb.Element{}, 300_000)})),
		"unclean keys":   forge(delta(&pb.Delta{Elements: repeat(&pb.Element{Key: "a"}, 150_000)})),
		"tombstones":     forge(delta(&pb.Delta{Tombstones: repeat(&pb.Element{Key: "/a", Id: "/"}, 70_000)})),
		"one value":      forge(delta(&pb.Delta{Elements: []*pb.Element{{Key: "/a", Value: make([]byte, 700_000)}}})),
		"links":          forge(delta(&pb.Delta{}), links...),
	}
}

// Not parallel: it looks at the heap.
func TestFootprintIsNotLessThanWhatABlockTakes(t *testing.T) {
	blocks := &blockStore{newDelta: newPBDelta, maxSize: 2 << 20}
	for name, raw := range greedyBlocks(t) {
		id := blockID(sha256.Sum256(raw))
		before := heapInUse()
		node, err := decodeNode(raw)
		if err != nil {
			t.Fatal(err)
		}
		d := newPBDelta()
		if err := d.Unmarshal(node.Data()); err != nil {
			t.Fatal(err)
		}
		b, _ := blocks.decode(id, raw)
		took := int64(heapInUse()) - int64(before) + int64(len(raw))
		if most := footprint(raw); took > most || most > bytesPerBlock+140*int64(len(raw)) {
			t.Errorf("%s: %d bytes take %d, the footprint is %d", name, len(raw), took, most)
		}
		runtime.KeepAlive([]any{node, d, b})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// While the merger is behind, large blocks are decoded up to a limit, and
// small ones still find room.
func TestBlocksInFlightAreBounded(t *testing.T) { synctest.Test(t, boundBlocksInFlight) }

func boundBlocksInFlight(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.must(r.committer.acquire(ctx)) // the merger has to wait
	greedy := &pb.Delta{Priority: 1}
	for range 30_000 {
		greedy.Elements = append(greedy.Elements, &pb.Element{Key: "/a"})
	}
	var offered []cid.Cid
	for i := range 24 {
		greedy.Elements[0].Value = fmt.Append(nil, i)
		offered = append(offered, r.offer(liar, greedy))
	}
	classes := r.fetcher.classes
	waitFor(t, "large blocks to wait for room", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		if classes.large.used > classes.large.size {
			t.Fatalf("%d bytes are in use", classes.large.used)
		}
		return len(classes.large.crowd.lines) > 5
	})
	offered = append(offered, r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement("/small")}))
	waitFor(t, "a small block to arrive", func() bool { return len(classes.small.queue) == 1 })
	r.committer.release()
	for _, c := range offered {
		r.awaitMerged(c)
	}
	waitFor(t, "all room to be free", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		return classes.large.used == 0 && classes.small.used == 0
	})
}

func TestHugeMessageCostsLittle(t *testing.T) {
	var msg []byte
	for i := range 3000 {
		msg = append(msg, announcement(unavailable(i))...)
	}
	msg = bytes.Repeat(msg, maxMessage/len(msg))
	var list []announced
	allocs := testing.AllocsPerRun(1, func() { list, _ = decodeBroadcast(msg) })
	if len(list) != maxHeadsPerMessage || allocs > 10*maxHeadsPerMessage {
		t.Errorf("%d heads, %.0f allocations", len(list), allocs)
	}
	if list, err := decodeBroadcast(make([]byte, maxMessage+1)); len(list) > 0 || err == nil {
		t.Errorf("of a larger message %d heads are announced: %v", len(list), err)
	}
}

// crowds counts the blocks that wait for room.
func (r *replica) crowds() (n int) {
	r.fetcher.mu.Lock()
	defer r.fetcher.mu.Unlock()
	for _, b := range r.fetcher.scheduler.missing {
		if b.state == crowded {
			n++
		}
	}
	return n
}

// A group with any number of blocks that nobody has must not keep room from
// others.
func TestRoomIsNotHeldByBlocksThatWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.NumWorkers = 1; o.RebroadcastInterval = time.Minute })
		liar := net.node()
		links := []cid.Cid{liar.wideBlock(t, 1<<40)}
		for i := range 100 {
			links = append(links, liar.bulkyBlock(t, uint64(10+i)))
		}
		top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1000}), links...)
		show := liar.hide(t, links...)
		r.node.deliver(announcement(top))
		time.Sleep(2 * time.Second) // the top is merged, and all below it asked for
		r.must(r.committer.acquire(ctx))
		show()
		time.Sleep(time.Second)
		if r.crowds() == 0 {
			t.Fatal("no block waits for room")
		}
		r.committer.release()
		time.Sleep(time.Minute)

		honest := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/honest")}))
		r.node.deliver(announceInline(honest, liar.blocks[honest]))
		time.Sleep(time.Second)
		if got := r.state(honest); got != complete {
			t.Errorf("after a second the honest block is in state %d", got)
		}
	})
}

// While a group has brought more blocks than there is room for, the block of
// another group need not wait for all of them.
func TestGroupsTakeTurnsForRoom(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	var links []cid.Cid
	for i := range 300 {
		links = append(links, liar.bulkyBlock(t, uint64(10+i)))
	}
	honest := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/honest")}))
	show := liar.hide(t, links...)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 5000}, links...))
	r.must(r.committer.acquire(ctx))
	show()
	waitFor(t, "a crowd", func() bool { return r.crowds() > 200 })
	before := r.crowds()
	r.node.deliver(announceInline(honest, liar.blocks[honest]))
	waitFor(t, "the honest block to join it", func() bool { return r.crowds() > before })
	r.committer.release()
	r.awaitMerged(honest)
	passed := 0
	for _, c := range links {
		if r.state(c) != unknown {
			passed++
		}
	}
	if passed > len(links)*3/4 {
		t.Errorf("%d blocks of another group were merged before", passed)
	}
}

// After any storm all room is free, and nobody waits.
func TestRoomComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, forbid)
		liar := net.node()
		liar.sound = true
		for round := range 3 {
			net.weather(netFaults{garble: 0.2, fail: 0.2, slow: time.Second, addFail: 0.2})
			for i := range 200 {
				r.storm(liar, round, i)
			}
			time.Sleep(5 * time.Second)
		}
		net.heal()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		for _, c := range []*sizeClass{r.fetcher.classes.small, r.fetcher.classes.large} {
			if c.used != 0 || len(c.crowd.lines) > 0 || len(c.queue) > 0 {
				t.Errorf("%d bytes are in use, %d groups wait, %d blocks are queued", c.used, len(c.crowd.lines), len(c.queue))
			}
		}
		for _, b := range r.fetcher.scheduler.missing {
			if !b.queued {
				t.Fatal("a block is left in state", b.state)
			}
		}
	})
}

// storm sends a block that may be small, bulky or large, good or bad, inline,
// to be fetched, or both.
func (r *replica) storm(liar *testNode, round, i int) {
	d := &pb.Delta{Priority: uint64(1 + i), DagName: []string{"", "", ".."}[i%3], Elements: oneElement([]string{"/k", "/forbidden/k", "/k"}[i%3])}
	for range []int{10, 2500, 8000}[i%3] {
		d.Elements = append(d.Elements, &pb.Element{Key: "/a"})
	}
	d.Elements[0].Value = fmt.Append(nil, round, i)
	c := liar.forge(r.t, marshalDelta(r.t, d), unavailable(i%50))
	if i%2 == 0 {
		r.node.deliver(announceInline(c, liar.blocks[c]))
	}
	if i%2 == 1 || i%5 == 0 {
		r.node.deliver(announcement(c))
	}
	if i%10 == 0 {
		time.Sleep(time.Millisecond)
	}
}

// Close in the midst of it all.
func TestCloseAmidCrowds(t *testing.T) { synctest.Test(t, closeAmidCrowds) }

func closeAmidCrowds(t *testing.T) {
	net := newTestNet()
	liar := net.node()
	var blocks []cid.Cid
	for i := range 200 {
		blocks = append(blocks, liar.bulkyBlock(t, uint64(10+i)))
	}
	for range 5 {
		r := net.newReplica(t, silent, func(o *Options) {
			o.CheckDelta = func(ctx context.Context, _ Head, _ Delta) error { return ctx.Err() }
		})
		r.must(r.committer.acquire(ctx)) // or else there is no crowd on a fast machine
		for _, c := range blocks {
			r.node.deliver(announcement(c))
		}
		waitFor(t, "a crowd", func() bool { return r.crowds() > 10 })
		r.committer.release()
		begun := time.Now()
		r.must(r.Close())
		if took := time.Since(begun); took > closeTimeout/2 {
			t.Errorf("Close took %s", took)
		}
		if _, err := r.Get(ctx, ds.NewKey("/x")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}
