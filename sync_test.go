package crdt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	dag "github.com/ipfs/go-merkledag"
	"google.golang.org/protobuf/proto"
)

// forge makes a block that no honest replica would, puts it into the network
// and returns its CID.
func (node *testNode) forge(t *testing.T, data []byte, links ...cid.Cid) cid.Cid {
	t.Helper()
	nd := dag.NodeWithData(data)
	nd.SetCidBuilder(blockPrefix)
	for _, c := range links {
		if err := nd.AddRawLink("", &ipld.Link{Cid: c}); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Add(ctx, nd); err != nil {
		t.Fatal(err)
	}
	return nd.Cid()
}

func marshalDelta(t *testing.T, d *pb.Delta) []byte {
	t.Helper()
	b, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func announcement(cids ...cid.Cid) []byte {
	msg := &pb.CRDTBroadcast{}
	for _, c := range cids {
		msg.Heads = append(msg.Heads, &pb.Head{Cid: c.Bytes()})
	}
	b, err := proto.Marshal(msg)
	if err != nil {
		panic(err)
	}
	return b
}

// unavailable returns the CID of a block that nobody has.
func unavailable(i int) cid.Cid {
	c, err := blockPrefix.Sum([]byte(fmt.Sprint("nobody has this", i)))
	if err != nil {
		panic(err)
	}
	return c
}

// An element that passes unless something else is wrong.
func oneElement(key string) []*pb.Element { return []*pb.Element{{Key: key, Value: []byte("evil")}} }

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
	for e, err := range victim.Datastore.store.rows(ctx, "", true, 0) {
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

func TestBlockAboveARefusedOneNeverBecomesAHead(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.put("/k", "v")
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{DagName: "..", Elements: oneElement("/bad")}))
	middle := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 8, Elements: oneElement("/middle")}), bad)
	top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 9, Elements: oneElement("/top")}), middle)
	r.node.deliver(announcement(top))
	waitFor(t, "the root to be dropped", func() bool {
		_, roots := r.frontier.get()
		ok, _ := r.IsProcessed(ctx, middle)
		return ok && len(roots) == 0 && len(r.rowsUnder("/q"))+len(r.rowsUnder("/p")) == 0
	})
	if heads := r.InternalStats(ctx).Heads; len(heads) != 1 || heads[0].Height != 1 {
		t.Errorf("heads are %v", heads)
	}
	if r.get("/bad") != "(none)" {
		t.Error("the refused delta was merged")
	}
}

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

func TestLongCascadeIsSplitIntoCommits(t *testing.T) {
	if testing.Short() {
		t.Skip("merges many blocks")
	}
	net := newTestNet()
	a := net.newReplicaOn(t, newBadger(t))
	liar := net.node()
	// Many blocks wait for one: a fan, which is too wide for one commit.
	const fan = maxSpread/2 + 100
	base := marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/base")})
	nd := dag.NodeWithData(base)
	nd.SetCidBuilder(blockPrefix)
	var tops []cid.Cid
	for i := range fan {
		tops = append(tops, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, Elements: oneElement(fmt.Sprintf("/%d", i))}), nd.Cid()))
	}
	for i := 0; i < fan; i += 500 {
		n := min(i+500, fan)
		a.node.deliver(announcement(tops[i:n]...))
		waitFor(t, "the fan", func() bool { _, roots := a.frontier.get(); return len(roots) == n })
	}
	if err := liar.Add(ctx, nd); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all to be heads", func() bool { heads, roots := a.frontier.get(); return len(heads) == fan && len(roots) == 0 })
	waitFor(t, "all to be told", func() bool { return len(a.rowsUnder("/q")) == 0 })
	a.put("/join", "v")
	if heads := a.InternalStats(ctx).Heads; len(heads) != 1 {
		t.Errorf("%d heads after a write", len(heads))
	}
}

func TestNamedDAGs(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	publish := func(name, key, value string) Head {
		d, err := a.Set().Add(ctx, key, []byte(value))
		a.must(err)
		d.SetDagName(name)
		h, err := a.Publish(ctx, d)
		a.must(err)
		return h
	}
	a.put("/main", "1")
	for i := range 5 {
		if h := publish("one", "/one", fmt.Sprint(i)); h.Height != uint64(i+1) || h.DAGName != "one" {
			t.Errorf("head %s", h)
		}
	}
	publish("two", "/two", "2")
	if got := converge(t, a, b); len(got) != 3 || got["/one"] != "4" {
		t.Errorf("pairs: %v", got)
	}
	for _, r := range []*replica{a, b} {
		n, err := r.Heads().LenDAG(ctx, "one")
		all, _ := r.Heads().Len(ctx)
		list, height, _ := r.Heads().ListDAG(ctx, "one")
		if err != nil || n != 1 || all != 3 || height != 5 || len(list) != 1 {
			t.Errorf("heads of one: %d of %d, height %d: %v", n, all, height, err)
		}
		if h, ok := r.Heads().Get(ctx, list[0].Cid); !ok || h != list[0] {
			t.Errorf("Get gives %v", h)
		}
	}
	d := newPBDelta()
	d.SetDagName("a/b")
	if _, err := a.Publish(ctx, d); err == nil {
		t.Error("a DAG named a/b was accepted")
	}

	blocks := len(a.node.blocks)
	n, err := a.PurgeDAG(ctx, "one")
	if n != 5 || err != nil || len(a.node.blocks) != blocks-5 {
		t.Errorf("PurgeDAG removed %d blocks of 5: %v", n, err)
	}
	if n, err := a.PurgeDAG(ctx, "one"); n != 0 || err != nil {
		t.Errorf("purged again: %d, %v", n, err)
	}
	if got := a.get("/one"); got != "(none)" {
		t.Errorf("after the purge /one is %q", got)
	}
}

func TestTraverseAndDraw(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	for i := range 10 {
		a.put(fmt.Sprint("/a", i), "v")
		b.put(fmt.Sprint("/b", i), "v")
	}
	net.heal()
	converge(t, a, b)
	a.put("/join", "v")
	var tops []cid.Cid
	for _, h := range a.InternalStats(ctx).Heads {
		tops = append(tops, h.Cid)
	}
	seen := make(map[cid.Cid]bool)
	a.must(a.Traverse(ctx, tops, func(n ipld.Node) error {
		if seen[n.Cid()] {
			t.Errorf("block %s twice", n.Cid())
		}
		seen[n.Cid()] = true
		return nil
	}))
	if len(seen) != 21 {
		t.Errorf("%d blocks, want 21", len(seen))
	}
	if err := a.Traverse(ctx, nil, func(ipld.Node) error { return nil }); err == nil {
		t.Error("Traverse from nowhere succeeded")
	}
	var dot bytes.Buffer
	a.must(a.DotDAG(ctx, &dot))
	// 9 in each branch and 2 that join them; in each branch a skip link.
	if arrows := strings.Count(dot.String(), "->"); arrows != 9+9+2+2 {
		t.Errorf("%d arrows in\n%s", arrows, dot.String())
	}

	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	read, write, err := os.Pipe()
	a.must(err)
	os.Stdout = write
	a.must(a.PrintDAG(ctx))
	a.must(write.Close())
	printed, err := io.ReadAll(read)
	a.must(err)
	if lines := bytes.Count(printed, []byte("\n")); lines != 21 {
		t.Errorf("%d lines printed, want one for each of 21 blocks", lines)
	}
}

func TestRepairMergesWhatWasMissed(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 20 {
		r.put("/k", fmt.Sprint(i))
	}
	heads := r.InternalStats(ctx).Heads
	r.MarkDirty(ctx)
	if !r.IsDirty(ctx) {
		t.Error("MarkDirty did nothing")
	}
	if r.must(r.repairer.markClean(ctx, r.repairer.marks()-1)); !r.IsDirty(ctx) {
		t.Error("a repair that began before MarkDirty took the mark away")
	}
	// Forget one block in the middle and its version.
	ids := r.rowsUnder("/s/l")
	_, id, _ := splitID(ids[len(ids)/2].Key)
	r.must(r.store.Delete(ctx, ds.RawKey(ids[len(ids)/2].Key)))
	r.must(r.store.Delete(ctx, r.Datastore.store.keys.block(id)))
	r.must(r.Repair(ctx))
	if ok, _ := r.IsProcessed(ctx, id.Cid()); !ok || r.IsDirty(ctx) {
		t.Error("the block was not merged again")
	}
	if got := r.InternalStats(ctx).Heads; fmt.Sprint(got) != fmt.Sprint(heads) {
		t.Errorf("heads before %v, after %v", heads, got)
	}
}

func TestAnnouncedAgainForThoseWhoMissedIt(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.drop = 1
	a.put("/k", "v")
	waitFor(t, "the lost announcement", func() bool { net.mu.Lock(); defer net.mu.Unlock(); return a.node.sent > 0 })
	net.heal()
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

// The next round may be hours away: until then only what others know of the
// present heads is kept.
func TestSeenHeadsDoNotPileUp(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 50 {
		r.put("/k", fmt.Sprint(i))
		id, err := blockIDOf(r.head())
		r.must(err)
		r.announcer.sawHead(id)
	}
	r.announcer.mu.Lock()
	defer r.announcer.mu.Unlock()
	if n := len(r.announcer.seen); n > 2 {
		t.Errorf("%d heads are remembered, and there is one", n)
	}
}

func TestCloseAnnouncesWhatIsLeft(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.BroadcastBatchDelay = time.Hour })
	b := net.newReplica(t)
	a.put("/k", "v")
	a.must(a.Close())
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

func TestWritesWithinBroadcastBatchDelayShareAnAnnouncement(t *testing.T) {
	synctest.Test(t, shareAnAnnouncement)
}

func shareAnAnnouncement(t *testing.T) {
	net := newTestNet()
	a := net.newReplica(t, func(o *Options) { o.BroadcastBatchDelay = 300 * time.Millisecond; o.RebroadcastInterval = time.Hour })
	b := net.newReplica(t)
	for i := range 50 {
		a.put(fmt.Sprint("/", i), "v")
		time.Sleep(5 * time.Millisecond) // of fake time
	}
	converge(t, a, b)
	net.mu.Lock()
	defer net.mu.Unlock()
	if a.node.sent > 2 {
		t.Errorf("50 writes made %d announcements", a.node.sent)
	}
}

// A message larger than one carries is split.
func TestManyHeadsAreAnnouncedInSeveralMessages(t *testing.T) {
	if _, err := decodeBroadcast(announcement(make([]cid.Cid, 0)...)); err != nil {
		t.Fatal(err)
	}
	var cids []cid.Cid
	for i := range maxHeadsPerMessage + 10 {
		cids = append(cids, unavailable(i))
	}
	ids, err := decodeBroadcast(announcement(cids...))
	if err != nil || len(ids) != maxHeadsPerMessage {
		t.Errorf("%d heads of one message were taken: %v", len(ids), err)
	}
}

// A joinNode is a node that is told when peers come.
type joinNode struct {
	*testNode
	joins chan struct{}
}

func (n *joinNode) Joined(ctx context.Context) error {
	select {
	case <-n.joins:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A replica greets peers that come with its heads, unless another one has just
// done so. Fake time shows what is not said.
func TestPeersThatComeAreGreetedByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		opts := DefaultOptions()
		opts.RebroadcastInterval = time.Hour
		open := func() (*Datastore, *joinNode) {
			node := &joinNode{net.node(), make(chan struct{})}
			d, err := New(newAtomicStore(), testNamespace, node, node, opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d, node
		}
		a, na := open()
		b, nb := open()
		if err := a.Put(ctx, ds.NewKey("/k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		newcomer, _ := open()
		said := na.sent + nb.sent
		na.joins <- struct{}{}
		nb.joins <- struct{}{}
		time.Sleep(time.Minute) // of fake time
		synctest.Wait()
		for _, d := range []*Datastore{b, newcomer} {
			if v, err := d.Get(ctx, ds.NewKey("/k")); string(v) != "v" {
				t.Errorf("/k is %q: %v", v, err)
			}
		}
		if n := na.sent + nb.sent - said; n != 1 {
			t.Errorf("%d replicas spoke", n)
		}
	})
}
