package crdt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

func FuzzBroadcast(f *testing.F) {
	addHex(f, vectors.broadcasts)
	f.Add(unavailable(1).Bytes())
	f.Add(announcement(unavailable(1), unavailable(2), unavailable(1)))
	f.Add(link{testID(1), true}.Cid().Bytes())
	f.Add(announcement(link{testID(1), true}.Cid(), testID(1).Cid(), link{testID(2), true}.Cid()))
	f.Add(announceInline(unavailable(1), []byte("not its bytes")))
	f.Add(announcement(cid.NewCidV1(cid.Raw, unavailable(1).Hash()), unavailable(2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		heads, _ := decodeBroadcast(data)
		if len(heads) > maxHeadsPerMessage {
			t.Fatalf("%d heads of one message", len(heads))
		}
		seen := make(map[blockID]bool)
		msg := &pb.CRDTBroadcast{}
		for _, h := range heads {
			if seen[h.id] {
				t.Errorf("block %s twice", h.id.Cid())
			}
			seen[h.id] = true
			msg.Heads = append(msg.Heads, &pb.Head{Cid: link{h.id, h.v0}.Cid().Bytes(), Block: h.raw})
		}
		again, err := decodeBroadcast(mustMarshal(t, msg))
		if err != nil || !slices.EqualFunc(again, heads, sameAnnounced) {
			t.Errorf("%d heads, encoded and decoded, are %d: %v", len(heads), len(again), err)
		}
		if c, err := cid.Cast(data); err == nil && (c.Prefix() == blockPrefix || c.Version() == 0 && len(c.Hash()) == multihashLength) {
			if len(heads) != 1 || (link{heads[0].id, heads[0].v0}).Cid() != c {
				t.Errorf("the bytes of CID %s announce %v", c, heads)
			}
		}
	})
}

func sameAnnounced(a, b announced) bool {
	return a.id == b.id && a.v0 == b.v0 && bytes.Equal(a.raw, b.raw)
}

func TestLegacyAnnouncementIsOneCID(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.RebroadcastInterval = time.Hour })
	net.split(0, 1)
	a.put("/k", "v")
	b := net.newReplica(t)
	heads, _, err := a.Heads().List(ctx)
	a.must(err)
	b.node.deliver(heads[0].Cid.Bytes())
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

// In fake time, so that the delay is nobody else's.
func TestGarbageIsRefusedAndDelaysNobody(t *testing.T) { synctest.Test(t, refuseGarbage) }

func refuseGarbage(t *testing.T) {
	net := newTestNet()
	victim, honest := net.newReplica(t), net.newReplica(t)
	liar := net.node()
	deltas := map[string]*pb.Delta{
		"DAG name a/b":     {Priority: 1, DagName: "a/b", Elements: oneElement("/k")},
		"DAG name ..":      {Priority: 1, DagName: "..", Elements: oneElement("/k")},
		"DAG name .":       {Priority: 1, DagName: ".", Elements: oneElement("/k")},
		"endless DAG name": {Priority: 1, DagName: strings.Repeat("n", 256), Elements: oneElement("/k")},
	}
	var bad []cid.Cid
	for _, d := range deltas {
		bad = append(bad, liar.forge(t, marshalDelta(t, d)))
	}
	bad = append(bad, liar.forge(t, []byte("no delta at all")))
	raw := []byte("no dag-pb node")
	c, _ := blockPrefix.Sum(raw)
	if err := liar.addRaw(c, raw); err != nil {
		t.Fatal(err)
	}
	bad = append(bad, c, liar.forge(t, make([]byte, 3<<20)))
	bad = append(bad, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/below-raw")}), cid.NewCidV1(cid.Raw, bad[0].Hash())))

	messages := [][]byte{nil, {}, []byte("random"), bytes.Repeat([]byte{0xff}, 1000), announcement(), announcement(cid.NewCidV1(cid.Raw, bad[0].Hash()))}
	for _, c := range bad {
		messages = append(messages, announcement(c), c.Bytes(), append(announcement(c), 0x7f))
	}
	for i := range 500 {
		messages = append(messages, announcement(unavailable(i)))
	}
	for _, m := range messages {
		victim.node.deliver(m)
	}
	begun := time.Now()
	honest.put("/honest", "v")
	waitFor(t, "the honest pair", func() bool { return victim.get("/honest") == "v" })
	if took := time.Since(begun); took > time.Second {
		t.Errorf("an honest update took %s", took)
	}
	waitFor(t, "all bad blocks to be judged", func() bool {
		for _, c := range bad {
			id, err := blockIDOf(c)
			if err != nil {
				t.Fatal(err)
			}
			if known, _ := victim.store.Has(ctx, victim.Datastore.store.keys.block(id)); !known {
				return false
			}
		}
		return true
	})
	if pairs := victim.pairs(); len(pairs) != 1 {
		t.Errorf("bad blocks brought pairs: %v", pairs)
	}
	for e, err := range victim.Datastore.store.rowsUnder(ctx, "", true, 0) {
		if err != nil || !strings.HasPrefix(e.Key, testNamespace.String()+"/") {
			t.Errorf("row %s is outside the namespace: %v", e.Key, err)
		}
	}
	for _, c := range bad {
		if ok, _ := victim.IsProcessed(ctx, c); ok {
			t.Errorf("bad block %s counts as merged", c)
		}
	}
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

func TestLegacyAnnouncementWithAForeignCodecStartsNothing(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.node.deliver(cid.NewCidV1(cid.Raw, unavailable(0).Hash()).Bytes())
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement("/k")})) // heard after the first
	waitFor(t, "the fetcher to have nothing to do", func() bool { return r.fetcher.len() == 0 })
}
