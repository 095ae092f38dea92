package crdt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

func inline(size int) func(*Options) {
	return func(o *Options) { o.InlineBlockSize, o.RebroadcastInterval = size, time.Hour }
}

// asked tells how many blocks a node has been asked for.
func (node *testNode) asked() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return node.requests
}

// given tells how many blocks others have got from a node.
func (node *testNode) given() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return node.served
}

func TestInlineBlocksNeedNoFetch(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t, inline(1<<10)), net.newReplica(t)
	a.put("/first", "x")
	converge(t, a, b) // a has announced the heads that it had at its start
	before := a.node.given()
	for i := range 99 {
		a.put(fmt.Sprint("/", i%10), fmt.Sprint(i))
	}
	a.del("/0")
	converge(t, a, b)
	if n := a.node.given() - before; n > 0 { // b may read its own, for the targets of skip links
		t.Errorf("%d blocks were fetched", n)
	}
	if n := len(b.node.blocks); n != 101 {
		t.Errorf("%d of 101 blocks are kept for others", n)
	}
}

func TestLargeBlocksAreNotInlined(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t, inline(1<<10)), net.newReplica(t)
	a.put("/large", strings.Repeat("x", 1<<10))
	a.put("/small", "x")
	converge(t, a, b)
	for _, m := range a.node.messages {
		if len(m) > 1<<10 {
			t.Errorf("a message has %d bytes", len(m))
		}
	}
}

// The announcements that fell together while none could be sent are one
// message, up to a limit.
func TestInlineBlocksWaitInBoundedMemory(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, inline(64<<10), func(o *Options) { o.BroadcastBatchDelay = time.Hour })
	b := net.newReplica(t)
	for i := range 20 {
		a.put(fmt.Sprint("/", i), strings.Repeat("x", 32<<10))
	}
	a.announcer.mu.Lock()
	size := a.announcer.size
	a.announcer.mu.Unlock()
	if size == 0 || size > maxInlineBytes {
		t.Errorf("%d bytes wait", size)
	}
	a.must(a.Close())
	waitFor(t, "the last pair", func() bool { return len(b.pairs()) == 20 })
}

// announceInline announces a block with bytes that are said to be its own.
func announceInline(c cid.Cid, raw []byte) []byte {
	b, err := proto.Marshal(&pb.CRDTBroadcast{Heads: []*pb.Head{{Cid: c.Bytes(), Block: raw}}})
	if err != nil {
		panic(err)
	}
	return b
}

func TestInlineBytesOfAnotherBlockAreIgnored(t *testing.T) {
	net := newTestNet()
	b := net.newReplica(t)
	liar := net.node()
	good := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: []byte("good")}}}))
	other := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
	b.node.deliver(announceInline(good, liar.blocks[other]))
	b.awaitMerged(good)
	if v := b.get("/k"); v != "good" {
		t.Errorf("/k is %q", v)
	}
	if ok, _ := b.IsProcessed(ctx, other); ok {
		t.Error("a block was merged that nobody announced")
	}
}

func TestInlineBlockThatBreaksARuleIsRefused(t *testing.T) {
	net := newTestNet()
	b := net.newReplica(t, silent)
	liar := net.node()
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "..", Elements: oneElement("/k")}))
	b.node.deliver(announceInline(bad, liar.blocks[bad]))
	waitFor(t, "the refusal", func() bool { return b.state(bad) == refused })
	if b.node.blocks[bad] != nil {
		t.Error("a refused block is kept")
	}
}

// Blocks that are asked for in vain may still come with an announcement.
func TestInlineBlockTakesThePlaceOfARequest(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	a.put("/1", "v")
	first := a.head()
	a.put("/2", "v")
	second := a.head()
	b.node.deliver(announceInline(second, a.node.blocks[second]))
	waitFor(t, "a request for the block below", func() bool { return b.node.asked() > 0 })
	b.node.deliver(announceInline(first, a.node.blocks[first]))
	converge(t, a, b)
}
