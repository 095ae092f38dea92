package crdt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// A snapshot that is nowhere.
var someSnapshot = snapshotName{versions: testID(201), cover: testID(202), entries: 3, bytes: 40, blocks: 5}

// checkpointDelta is the delta of a checkpoint.
func checkpointDelta(height uint64) *pb.Delta {
	return &pb.Delta{Priority: height, Checkpoint: someSnapshot.message()}
}

// awaitTurn waits until what is in the store is known in memory as well.
func (r *replica) awaitTurn() {
	r.t.Helper()
	r.must(r.committer.acquire(ctx))
	r.committer.release()
}

// The wire format of a checkpoint, byte for byte.
func TestCheckpointVector(t *testing.T) {
	const want = "1802a206520a240170122000c900000000000000000000000000000000000000000000000000000000000112240170122000ca000000000000000000000000000000000000000000000000000000000001180320282805"
	got := hex.EncodeToString(marshalDelta(t, checkpointDelta(2)))
	if got != want {
		t.Errorf("a checkpoint is %s, want %s", got, want)
	}
}

func TestWhatIsACheckpoint(t *testing.T) {
	v0 := link{testID(1), true}.Cid().Bytes()
	with := func(change func(*pb.Delta)) []byte {
		d := checkpointDelta(2)
		change(d)
		return marshalDelta(t, d)
	}
	field := func(b []byte) []byte { return appendBytes([]byte{0x18, 2}, checkpointField, b) }
	one := []cid.Cid{unavailable(1)}
	for name, test := range map[string]struct {
		delta []byte
		links []cid.Cid
		is    bool
	}{
		"a checkpoint":             {with(func(*pb.Delta) {}), one, true},
		"of a named DAG":           {with(func(d *pb.Delta) { d.DagName = "d" }), one, true},
		"on many heads":            {with(func(*pb.Delta) {}), unavailables(maxFolded), true},
		"on too many heads":        {with(func(*pb.Delta) {}), unavailables(maxFolded + 1), false},
		"on none":                  {with(func(*pb.Delta) {}), nil, false},
		"with an element":          {with(func(d *pb.Delta) { d.Elements = oneElement("/k") }), one, false},
		"with a void one":          {with(func(d *pb.Delta) { d.Elements = oneElement("/") }), one, false},
		"with a tombstone":         {with(func(d *pb.Delta) { d.Tombstones = oneElement("/k") }), one, false},
		"a summary":                {with(func(d *pb.Delta) { d.Snapshot = true }), one, false},
		"without versions":         {with(func(d *pb.Delta) { d.Checkpoint.Versions = nil }), one, false},
		"without a cover":          {with(func(d *pb.Delta) { d.Checkpoint.Cover = nil }), one, false},
		"versions of version 0":    {with(func(d *pb.Delta) { d.Checkpoint.Versions = v0 }), one, false},
		"a cover of version 0":     {with(func(d *pb.Delta) { d.Checkpoint.Cover = v0 }), one, false},
		"no CID":                   {with(func(d *pb.Delta) { d.Checkpoint.Cover = []byte("no CID") }), one, false},
		"no message":               {field([]byte{0xff}), one, false},
		"no message, and then one": {append(field([]byte{0xff}), with(func(*pb.Delta) {})...), one, false},
		"a number":                 {protowire.AppendVarint(protowire.AppendTag([]byte{0x18, 2}, checkpointField, protowire.VarintType), 7), one, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestNet().newReplica(t, walkHistory)
			liar := r.node.net.node()
			c := liar.forge(t, test.delta, test.links...)
			r.node.deliver(announcement(c))
			r.awaitMerged(c)
			r.awaitTurn()
			cp := r.frontier.checkpoints()[blockID(c.Hash()[2:])]
			if is := cp != nil; is != test.is {
				t.Fatalf("it is a checkpoint: %v", is)
			}
			if test.is && (cp.snapshot != someSnapshot || cp.tip.Height != 2 || cp.state != checkpointSeen || len(cp.links) != len(test.links)) {
				t.Errorf("it is %+v", cp)
			}
		})
	}
}

// A checkpoint is known from the commit on that merges it, also after a restart, and
// somebody is told of it, and again when it becomes complete.
func TestCheckpointIsKnownOnceItIsMerged(t *testing.T) {
	r := newTestNet().newReplica(t, silent, walkHistory)
	told := make(chan struct{}, 100)
	r.must(r.committer.acquire(ctx))
	r.committer.notify.checkpointSeen = func() { told <- struct{}{} }
	r.committer.release()
	liar := r.node.net.node()
	below := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
	show := liar.hide(t, below)
	c := r.offer(liar, checkpointDelta(2), below)
	<-told
	want := &checkpoint{id: blockID(c.Hash()[2:]), tip: HeadValue{Height: 2}, snapshot: someSnapshot, links: []blockID{blockID(below.Hash()[2:])}}
	check := func() {
		t.Helper()
		got := r.frontier.checkpoints()[want.id]
		if got == nil || got.tip != want.tip || got.snapshot != want.snapshot || !slices.Equal(got.links, want.links) {
			t.Errorf("known is %+v, want %+v", got, want)
		}
	}
	check()
	show()
	<-told
	waitFor(t, "the checkpoint to be complete", func() bool { return r.state(c) == complete })
	check()
	r.restart()
	check()
}

// Nothing rests on a checkpoint whose row has gone, and peers can make any number.
func TestIdleCheckpointsAreBounded(t *testing.T) {
	r := newTestNet().newReplica(t)
	set := func(change func(*checkpointsChange)) checkpoints {
		r.must(r.committer.do(ctx, func(c *commit) error { change(&c.checkpoints); return nil }))
		return r.frontier.checkpoints()
	}
	held := &checkpoint{id: testID(100), state: checkpointHeld}
	void := &checkpoint{id: testID(101), state: checkpointVoid, tip: HeadValue{Height: maxIdle}}
	all := set(func(c *checkpointsChange) {
		c.set(held)
		c.set(void)
		for i := range maxIdle - 1 {
			c.see(&checkpoint{id: testID(1000 + i), tip: HeadValue{Height: uint64(i)}})
		}
	})
	if len(all) != maxIdle+1 {
		t.Fatalf("%d checkpoints", len(all))
	}
	for i, gone := range []blockID{void.id, testID(1000), testID(1001)} {
		all = set(func(c *checkpointsChange) { c.see(&checkpoint{id: testID(2000 + i), tip: HeadValue{Height: 500}}) })
		if all[gone] != nil || all[held.id] == nil || all[testID(2000+i)] == nil || len(all) != maxIdle+1 {
			t.Errorf("%d checkpoints, and %s is still among them, or another is not", len(all), gone)
		}
	}
	set(func(c *checkpointsChange) { // no blocks are there
		for id := range all {
			c.remove(id)
		}
	})
}

// A block that an old store lacks below its heads may be a checkpoint, and so may one
// that it has: to the old module it was like any other.
func TestRepairSeesCheckpoints(t *testing.T) {
	for name, merged := range map[string]bool{"missed": false, "merged": true} {
		t.Run(name, func(t *testing.T) { repairSeesCheckpoints(t, merged) })
	}
}

func repairSeesCheckpoints(t *testing.T, merged bool) {
	r := newTestNet().newReplica(t, silent) // it will be void
	r.put("/k", "v")
	c := r.offer(r.node.net.node(), checkpointDelta(2), r.head())
	r.awaitMerged(c)
	r.put("/k", "on it")
	r.must(r.Close())
	id := blockID(c.Hash()[2:])
	r.must(r.store.Delete(ctx, r.Datastore.store.keys.checkpoint(id, nil)))
	if !merged {
		r.must(r.store.Delete(ctx, r.Datastore.store.keys.block(id)))
	}
	r.open()
	if n := len(r.frontier.checkpoints()); n != 0 {
		t.Fatalf("%d checkpoints before the repair", n)
	}
	r.must(r.Repair(ctx))
	if r.frontier.checkpoints()[id] == nil {
		t.Error("repair has not seen a checkpoint")
	}
}

func TestPurgeForgetsCheckpoints(t *testing.T) {
	r := newTestNet().newReplica(t, silent)
	d := checkpointDelta(1)
	d.DagName = "d"
	below := r.offer(r.node.net.node(), &pb.Delta{Priority: 1, DagName: "d"})
	r.awaitMerged(below)
	r.awaitMerged(r.offer(r.node.net.node(), d, below))
	r.awaitTurn()
	if n := len(r.frontier.checkpoints()); n != 1 {
		t.Fatalf("%d checkpoints", n)
	}
	_, err := r.PurgeDAG(ctx, "d")
	r.must(err)
	if n := len(r.frontier.checkpoints()) + len(r.rowsUnder("/w/c")); n != 0 {
		t.Errorf("%d checkpoints of a DAG that was purged", n)
	}
}

func TestCheckpointsAreNotPublished(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	d := newPBDelta()
	r.must(d.Unmarshal(marshalDelta(t, checkpointDelta(2))))
	if _, err := r.Publish(ctx, d); !errors.Is(err, ErrInvalidBlock) {
		t.Errorf("a checkpoint was published: %v", err)
	}
}

func TestCheckDeltaCanRefuseCheckpoints(t *testing.T) {
	r := newTestNet().newReplica(t, silent, func(o *Options) {
		o.CheckDelta = func(_ context.Context, _ Head, d Delta) error {
			if d.(interface{ GetCheckpoint() *pb.Checkpoint }).GetCheckpoint() != nil {
				return errors.New("no checkpoints")
			}
			return nil
		}
	})
	c := r.offer(r.node.net.node(), checkpointDelta(2), unavailable(1))
	waitFor(t, "the checkpoint to be refused", func() bool { return r.state(c) == refused })
	if n := len(r.frontier.checkpoints()); n != 0 {
		t.Errorf("%d checkpoints", n)
	}
}

var checkpointRows = []*checkpoint{
	{},
	{state: checkpointVoid, tip: HeadValue{Height: maxPriority, DAGName: "d"}, snapshot: someSnapshot, links: []blockID{testID(1), testID(2)}},
	{state: checkpointHeld, since: time.Unix(1700000000, 5), taken: true, segments: []segment{{testID(3), 1 << 40}, {testID(4), 7}}},
	{state: checkpointTaking, done: 300, removals: true},
	{state: checkpointTold, taken: true},
}

func FuzzCheckpointRow(f *testing.F) {
	for _, cp := range checkpointRows {
		cp.id = testID(9)
		f.Add(cp.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cp, err := decodeCheckpoint(testID(9).dsKey(), b)
		if err != nil {
			if !errors.Is(err, errBadCheckpoint) {
				t.Error(err)
			}
			return
		}
		if again, err := decodeCheckpoint(testID(9).dsKey(), cp.encode()); err != nil || !reflect.DeepEqual(cp, again) {
			t.Errorf("%+v was written, and is %+v: %v", cp, again, err)
		}
	})
}

func TestCheckpointRowsAreReadAsTheyWereWritten(t *testing.T) {
	for _, cp := range checkpointRows {
		cp.id = testID(9)
		row := cp.encode()
		if got, err := decodeCheckpoint("/w/c"+cp.id.dsKey(), row); err != nil || !reflect.DeepEqual(got, cp) {
			t.Errorf("%+v is %+v: %v", cp, got, err)
		}
		for n := range row {
			if got, err := decodeCheckpoint(cp.id.dsKey(), row[:n]); err == nil && len(got.segments) == len(cp.segments) {
				t.Errorf("%d bytes of a row of %d are %+v", n, len(row), got)
			}
		}
	}
	if _, err := decodeCheckpoint("/no block", checkpointRows[0].encode()); !errors.Is(err, errBadCheckpoint) {
		t.Errorf("the row of no block: %v", err)
	}
}

// A damaged row is told of, and not passed over.
func TestDamagedCheckpointRow(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.must(r.Close())
	key := r.Datastore.store.keys.checkpoint(testID(1), nil)
	r.must(r.store.Put(ctx, key, []byte("x")))
	_, err := New(r.store, testNamespace, r.node, nil, r.opts)
	if !errors.Is(err, errBadCheckpoint) {
		t.Errorf("opened with a damaged row: %v", err)
	}
	r.must(r.store.Delete(ctx, key))
	r.open()
}

func TestWithoutField(t *testing.T) {
	msg := slices.Concat(appendBytes(nil, 1, []byte("a")), appendBytes(nil, 2, []byte("b")), appendBytes(nil, 1, []byte("c")))
	for number, want := range map[protowire.Number]string{1: "\x12\x01b", 2: "\x0a\x01a\x0a\x01c", 3: string(msg)} {
		if got := string(withoutField(msg, number)); got != want {
			t.Errorf("without field %d it is %q, want %q", number, got, want)
		}
	}
	if got := fmt.Sprintf("%x", withoutField([]byte{0x0a, 9, 1}, 1)); got != "0a0901" {
		t.Errorf("what cannot be read has become %s", got)
	}
}

func TestStatsShowTheLastCheckpoint(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	if got := a.InternalStats(ctx).LastCheckpoint; got != (CheckpointStats{}) {
		t.Errorf("without a checkpoint there is %+v", got)
	}
	begun := time.Now()
	a.put("/k", "v")
	a.checkpoint()
	a.put("/l", "w")
	head := a.checkpoint()
	b.awaitHeld(head)
	for _, r := range []*replica{a, b} {
		got := r.InternalStats(ctx).LastCheckpoint
		if got.Head != head || got.Held.Before(begun) || got.Entries != 2 {
			t.Errorf("the last checkpoint is %+v, want %s", got, head)
		}
		r.restart()
		if again := r.InternalStats(ctx).LastCheckpoint; again.Head != head || !again.Held.Equal(got.Held) {
			t.Errorf("after a restart it is %+v", again)
		}
	}
}
