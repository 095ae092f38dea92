package crdt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

func TestOldStoreOpensWithTheSamePairs(t *testing.T) {
	eachOldStore(t, func(t *testing.T, o *oldStore, store ds.Datastore) {
		r := o.open(t, store)
		r.holds("migrated,", pairsOf(o.Pairs))
		checkMigrated(t, r)
		for key, value := range pairsOf(o.Pairs) {
			size, err := r.GetSize(ctx, ds.NewKey(key))
			if r.get(key) != value || size != len(value) || err != nil {
				t.Errorf("%s is %q, of size %d (%v), want %q", key, r.get(key), size, err, value)
			}
		}
		addBlocks(t, r.node, o.Missing)
		r.waitUntilClean()
	})
}

// checkMigrated checks that nothing is left of the old format.
func checkMigrated(t *testing.T, r *replica) {
	t.Helper()
	for _, prefix := range []string{"/s/s", "/s/k"} {
		if rows := r.rowsUnder(prefix); len(rows) > 0 {
			t.Errorf("%d rows are left under %s, such as %s", len(rows), prefix, rows[0].Key)
		}
	}
	version, err := r.store.Get(ctx, testNamespace.ChildString("crdt_version"))
	if err != nil || string(version) != "\x83" {
		t.Errorf("the version row is %x (%v), want 83", version, err)
	}
	for _, row := range r.rowsUnder("/s/t") {
		_, id, ok := splitID(row.Key)
		merged, err := r.IsProcessed(ctx, id.Cid())
		if !ok || merged || err != nil {
			t.Errorf("tombstone %s is left, of a merged block or none (%v)", row.Key, err)
		}
	}
}

func TestOldStoreGoesOn(t *testing.T) {
	eachOldStore(t, func(t *testing.T, o *oldStore, store ds.Datastore) {
		r := o.open(t, store)
		want := pairsOf(o.Pairs)
		if len(o.Missing) > 0 {
			addBlocks(t, r.node, o.Missing)
			r.waitUntilClean()
			want = pairsOf(o.Completed)
		}
		for i, key := range slices.Sorted(maps.Keys(want)) {
			if i%2 == 0 {
				want[key] = "!" // smaller than most: it must win by its priority
				r.put(key, "!")
			}
		}
		want["/new"] = "new"
		r.put("/new", "new")
		r.holds("after some writes", want)
		gone := append(o.contested(2), slices.Sorted(maps.Keys(want))[0])
		for _, key := range gone {
			delete(want, key)
			r.del(key)
		}
		r.holds("after the deletion of all versions of a key", want)
		r.restart()
		r.holds("after a restart", want)
		for _, key := range gone {
			want[key] = "again"
			r.put(key, "again")
		}
		r.restart()
		r.holds("after another", want)
		checkMigrated(t, r)
	})
}

func TestOldStoreKeepsKeysClean(t *testing.T) {
	r := writtenStore(t, "old-v1-odd-keys").open(t, newAtomicStore())
	for _, e := range r.rowsUnder("/s/r") {
		if key := e.Key[len(r.Datastore.store.keys.records):]; !isKey(key) {
			t.Errorf("the migrated store holds the key %q", key)
		}
	}
	if got := r.get("/u/v"); got != "was /u//v" {
		t.Errorf("/u/v is %q", got)
	}
	if _, err := r.Get(ctx, ds.NewKey("/")); !errors.Is(err, ds.ErrNotFound) {
		t.Errorf("the key / : %v", err)
	}
}

func TestOldHeadsAreAsHighAsTheirBlocks(t *testing.T) {
	r := writtenStore(t, "old-v1-low-head").open(t, newAtomicStore())
	if h := r.InternalStats(ctx).MaxHeight; h != 5 {
		t.Errorf("the greatest height is %d, want 5", h)
	}
	r.put("/other", "v")
	if h := r.InternalStats(ctx).MaxHeight; h != 6 {
		t.Errorf("the next block has height %d, want 6", h)
	}
}

func TestOldStoreBelowTheRootNamespace(t *testing.T) {
	o, store, node := writtenStore(t, "old-v1-nested-keys"), newAtomicStore(), newTestNet().node()
	root := ds.NewKey("/")
	o.fill(t, store, root)
	addBlocks(t, node, o.Blocks)
	d, err := New(store, root, node, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	res, err := d.Query(ctx, query.Query{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := res.Rest()
	if want := pairsOf(o.Pairs); err != nil || len(all) != len(want) {
		t.Errorf("%d pairs (%v), want %d", len(all), err, len(want))
	}
}

// A blocklessDAG has no blocks, and says so at once.
type blocklessDAG struct{ *testNode }

func (blocklessDAG) Get(context.Context, cid.Cid) (ipld.Node, error) {
	return nil, ipld.ErrNotFound{}
}

func TestOldStoreOpensWithoutItsBlocks(t *testing.T) {
	for _, o := range writtenStores(t) {
		if o.name == "old-v0-wrong-winners" {
			continue // its winners are in the blocks alone
		}
		store := newAtomicStore()
		o.fill(t, store, testNamespace)
		d, err := New(store, testNamespace, blocklessDAG{newTestNet().node()}, nil, nil)
		if err != nil {
			t.Errorf("%s: %s", o.name, err)
			continue
		}
		for key, value := range pairsOf(o.Pairs) {
			if got, err := d.Get(ctx, ds.NewKey(key)); string(got) != value || err != nil {
				t.Errorf("%s: %s is %q (%v), want %q", o.name, key, got, err, value)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A peer that removes a single version of a key must uncover the same one here
// as everywhere, though the migration did not look which one wins.
func TestRemoteTombstonesUncoverTheRightOldVersion(t *testing.T) {
	for _, best := range []bool{true, false} {
		t.Run(fmt.Sprintf("winner=%v", best), func(t *testing.T) {
			whole := slices.DeleteFunc(writtenStores(t), func(o *oldStore) bool { return len(o.Missing) > 0 })
			eachOf(t, whole, func(t *testing.T, o *oldStore, store ds.Datastore) {
				removeVersionsOneByOne(t, o, o.open(t, store), best)
			})
		})
	}
}

// removeVersionsOneByOne removes each key's best live version until none is
// left, or else a random one.
func removeVersionsOneByOne(t *testing.T, o *oldStore, r *replica, best bool) {
	model := o.model(t)
	r.holds("by the model", model.pairs())
	rng := rand.New(rand.NewPCG(1, uint64(len(o.Rows))))
	keys := o.contested(2)
	for i, key := range keys {
		for live := model.live(key); len(live) > 0; live = model.live(key) {
			victim := live[0]
			if !best {
				victim = live[rng.IntN(len(live))]
			}
			model.merge(r.fromPeer(tombstonesFor(key, []blockID{victim.id})))
			r.holds("after the tombstone of "+key, model.pairs())
		}
		if i == len(keys)/2 {
			r.restart()
			r.holds("after a restart", model.pairs())
		}
	}
}

// fromPeer has another replica publish tombstones on top of the heads, and
// waits until they are merged.
func (r *replica) fromPeer(tombstones []*pb.Element) *block {
	r.t.Helper()
	heads, _ := r.frontier.tips()
	d := newPBDelta()
	d.SetTombstones(tombstones)
	d.SetPriority(heads.maxHeight("") + 1)
	b, err := r.Datastore.blocks.build(d, heads.of(""))
	r.must(err)
	r.must(r.node.net.node().Add(ctx, b.node()))
	r.node.deliver(b.id.Cid().Bytes())
	waitFor(r.t, "the peer's block", func() bool {
		merged, err := r.IsProcessed(ctx, b.id.Cid())
		r.must(err)
		return merged
	})
	return b
}

// The old module took blocks that break rules of ours. What they say counts, as far as
// it can.
func TestOldHeadsMayBreakRules(t *testing.T) {
	for name, c := range map[string]struct {
		delta *pb.Delta
		want  HeadValue
	}{
		"too large": {&pb.Delta{Priority: 7, DagName: "dag", Elements: []*pb.Element{{Key: "/k", Value: make([]byte, 3<<20)}}}, HeadValue{7, "dag"}},
		"DAG name":  {&pb.Delta{Priority: 7, DagName: "a/b", Elements: []*pb.Element{{Key: "/k", Value: []byte("v")}}}, HeadValue{7, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			node := newTestNet().node()
			head := node.forge(t, marshalDelta(t, c.delta))
			block := blockID(head.Hash()[2:]).dsKey()
			o := &oldStore{Rows: []oldRow{ // the module was killed before it wrote the value
				{"/crdt_version", []byte{2}}, {"/h" + block, []byte{1}}, {"/b" + block, nil}, {"/s/s/k" + block, nil},
			}}
			r := &replica{t: t, store: newAtomicStore(), node: node, opts: testOptions()}
			silent(r.opts)
			o.fill(t, r.store, testNamespace)
			r.open()
			defer r.Close()
			if got, _ := r.Heads().Get(ctx, head); got.HeadValue != c.want {
				t.Errorf("the head is %v, want %v", got.HeadValue, c.want)
			}
			if got, want := r.get("/k"), string(c.delta.Elements[0].Value); got != want {
				t.Errorf("a value of %d bytes, want %d", len(got), len(want))
			}
		})
	}
}

func TestLocalPutWinsOverUnresolvedOldVersions(t *testing.T) {
	o := writtenStore(t, "old-v1-concurrent")
	r := o.open(t, newAtomicStore())
	want := pairsOf(o.Pairs)
	for _, key := range o.contested(2) {
		r.put(key, "")
		want[key] = ""
		r.holds("after a put", want)
	}
}

func TestMigrationMayBeCutOffAtAnyWrite(t *testing.T) {
	for _, o := range writtenStores(t) {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/plain=%v", o.name, plain), func(t *testing.T) {
				t.Parallel()
				newCutTest(t, o, plain).cutEverywhere()
			})
		}
	}
}

func TestMigrationGoesOnHoweverOftenItIsCutOff(t *testing.T) {
	for _, o := range writtenStores(t) {
		c := newCutTest(t, o, false)
		store := c.fresh()
		for opened := 0; c.open(store, 2) != nil; opened++ {
			if opened == 30 {
				t.Fatalf("%s: after 30 openings with two writes each it is not done", o.name)
			}
		}
		c.finish(store, o.name+" cut off after every second write")
	}
}

// Each step of these takes several batches.
func TestLongMigrationMayBeCutOffAtAnyWrite(t *testing.T) {
	large := synthesize(t, 150, 32<<10)
	for name, o := range map[string]*oldStore{
		"many rows":              synthesize(t, 5000, 10),
		"large values":           large,
		"large values, format 0": large.spoiled(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newCutTest(t, o, false).cutEverywhere()
		})
	}
}

func TestMigrationHoldsFewRowsAtATime(t *testing.T) {
	t.Parallel()
	const keys = 20_000
	o, store := synthesize(t, keys, 10), newFaultyStore()
	var withValues atomic.Int64
	store.onQuery = func(q query.Query) error { // of all old rows
		if !q.KeysOnly && strings.Contains(q.Prefix+"/", "/s/") {
			withValues.Add(1)
		}
		return nil
	}
	r := o.open(t, store)
	if rows := store.maxRows.Load(); rows > 3*migrationBatch || rows < migrationBatch {
		t.Errorf("%d rows were written at once, want some %d", rows, migrationBatch)
	}
	if n := withValues.Load(); n > 0 {
		t.Errorf("%d queries loaded the values of all rows", n)
	}
	r.holds("migrated,", pairsOf(o.Pairs))
	checkMigrated(t, r)
	r.put("/k/1", "after")
	r.del("/k/4") // of two versions
	r.restart()
	if r.get("/k/1") != "after" || r.get("/k/4") != "(none)" || r.get("/k/5") != "(none)" {
		t.Errorf("after some writes: %s, %s, %s", r.get("/k/1"), r.get("/k/4"), r.get("/k/5"))
	}
}

func TestMigrationHoldsFewBytesAtATime(t *testing.T) {
	t.Parallel()
	const valueSize = 100 << 10
	written := synthesize(t, 200, valueSize)
	for format, o := range []*oldStore{written.spoiled(), written} {
		store := newFaultyStore()
		r := o.open(t, store)
		if size := store.maxBytes.Load(); size > migrationBytes+2*valueSize {
			t.Errorf("of format %d, %d bytes were written at once, want some %d", format, size, migrationBytes)
		}
		r.holds("migrated,", pairsOf(o.Pairs))
	}
}

// A tombstone that came before its block stays until the block comes.
func TestOldTombstonesWaitForTheirBlocks(t *testing.T) {
	w := newOldWriter(t)
	unseen := newPBDelta()
	unseen.SetElements([]*pb.Element{{Key: "/k", Value: []byte("dead on arrival")}, {Key: "/other", Value: []byte("v")}})
	unseen.SetPriority(1)
	b, err := w.blocks.build(unseen, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.write([]*pb.Element{{Key: "/here", Value: []byte("v")}}, tombstonesFor("/k", []blockID{b.id}))
	r := w.finish().open(t, newAtomicStore())
	checkMigrated(t, r)
	r.must(r.node.net.node().Add(ctx, b.node()))
	r.node.deliver(b.id.Cid().Bytes())
	waitFor(t, "the block", func() bool { return r.get("/other") == "v" })
	r.holds("when the block had come", map[string]string{"/here": "v", "/other": "v"})
	if rows := r.rowsUnder("/s/t"); len(rows) > 0 {
		t.Errorf("tombstone %s is left", rows[0].Key)
	}
}

func TestDirtyOldStoreIsRepairedWhenItsBlocksCome(t *testing.T) {
	eachOf(t, []*oldStore{writtenStore(t, "old-v1-missing")}, func(t *testing.T, o *oldStore, store ds.Datastore) {
		r := o.open(t, store)
		r.restart()
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if err := r.Repair(cancelled); err == nil || !r.IsDirty(ctx) {
			t.Errorf("a repair that could not be done left the store clean: %v", err)
		}
		r.holds("before the repair", pairsOf(o.Pairs))
		addBlocks(t, r.node, o.Missing)
		r.waitUntilClean()
		r.holds("after the repair", pairsOf(o.Completed))
		r.restart()
		r.holds("after a restart", pairsOf(o.Completed))
		if h := r.InternalStats(ctx); len(h.Heads) != 1 || h.MaxHeight != 5 {
			t.Errorf("after the repair the heads are %v", h.Heads)
		}
	})
}

// Only a repair finds what the old module has lost track of.
func TestOldStoreThatWasNotClosedGetsARepair(t *testing.T) {
	o := writtenStore(t, "old-v1-missing").without("/d")
	o.Blocks = append(o.Blocks, o.Missing...)
	if r := o.open(t, newAtomicStore()); r.IsDirty(ctx) {
		t.Error("a store that was closed is dirty")
	} else {
		r.holds("without a repair", pairsOf(o.Pairs))
		r.must(r.Repair(ctx))
	}
	r := o.with("/bs").open(t, newAtomicStore())
	r.waitUntilClean()
	r.holds("after the repair", pairsOf(o.Completed))
}

// openOldHeads opens a store of the released module in which some blocks are merged,
// which are heads and have versions of /k, with the winner.
func (n *testNet) openOldHeads(t *testing.T, priority uint64, value string, heads ...cid.Cid) *replica {
	t.Helper()
	priorityRow := binary.AppendUvarint(nil, priority+1) // the greatest wraps around
	o := &oldStore{Rows: []oldRow{{"/crdt_version", []byte{2}}, {"/s/k/k/v", []byte(value)}, {"/s/k/k/p", priorityRow}}}
	for _, c := range heads {
		name := blockID(c.Hash()[2:]).dsKey()
		o.Rows = append(o.Rows, oldRow{"/h" + name, binary.AppendUvarint(nil, priority)}, oldRow{"/b" + name, nil}, oldRow{"/s/s/k" + name, nil})
	}
	r := &replica{t: t, store: newAtomicStore(), node: n.node(), opts: testOptions()}
	silent(r.opts)
	o.fill(t, r.store, testNamespace)
	r.open()
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// Going back is part of it: what the old rows say is what they said before.
func TestOldStoreMayHaveAnyPriority(t *testing.T) {
	eachOddPriority(t, func(t *testing.T, p uint64) {
		net := newTestNet()
		c := net.node().forge(t, marshalDelta(t, &pb.Delta{Priority: p, Elements: []*pb.Element{{Key: "/k", Value: []byte("v1")}}}))
		r := net.openOldHeads(t, p, "v1", c)
		if head, ok := r.Heads().Get(ctx, c); r.get("/k") != "v1" || !ok || head.Height != p {
			t.Errorf("/k is %q, the head %v", r.get("/k"), head)
		}
		r.must(r.Close())
		r.must(Downgrade(ctx, r.store, testNamespace, r.node))
		row, err := r.store.Get(ctx, testNamespace.ChildString("s/k/k/p"))
		if r.must(err); string(row) != string(binary.AppendUvarint(nil, p+1)) {
			t.Errorf("the row of priority %d is %x", p, row)
		}
		r.open()
		r.winsByPuts("/k")
		r.winsByPuts("/unrelated")
		r.checkOwnPriorities()
	})
}

func FuzzMigration(f *testing.F) {
	held := make(map[cid.Cid][]byte)
	for _, o := range writtenStores(f) {
		f.Add(linesOf(o.Rows), len(o.Rows)%2 == 0)
		for _, b := range o.Blocks {
			held[decodeCID(f, b.Cid)] = b.Data
		}
	}
	for _, redo := range []string{"\x0a\x03\x0a\x01x", "\x12\x08\x0a\x06/crdtx", "\x0a\x09\x0a\x07/crdt/h"} {
		f.Add([]byte("/crdt_version=\x02\n/w="+redo+"\n"), false)
	}
	f.Fuzz(func(t *testing.T, input []byte, plain bool) {
		o := &oldStore{Rows: rowsOf(input)}
		r := &replica{t: t, store: newAtomicStore(), node: newTestNet().node(), opts: testOptions()}
		if plain {
			r.store = plainStore{r.store}
		}
		r.node.blocks = maps.Clone(held)
		r.opts.RepairInterval = 0 // it writes whenever it likes
		silent(r.opts)
		plantNeighbours(t, r.store)
		o.fill(t, r.store, testNamespace)
		before := dump(t, r.store)
		old, resumes := o.isOld(), len(r.rowsUnder("/q")) > 0
		err := r.openLocally(old && !resumes)
		checkNeighbours(t, r.store)
		if err != nil && !namesARow(err, before) {
			t.Errorf("New names no row: %s", err)
		}
		if err != nil || resumes {
			return // what is queued is merged whenever it comes
		}
		after := dump(t, r.store)
		r.must(r.openLocally(old))
		if got := dump(t, r.store); !maps.Equal(got, after) {
			t.Errorf("opening the store again changed it\n%s", diff(got, after))
		}
	})
}

// A localDAG has some blocks, and says at once when it has not.
type localDAG struct{ *testNode }

func (d localDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	d.net.mu.Lock()
	here := d.blocks[c] != nil
	d.net.mu.Unlock()
	if !here {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return d.testNode.Get(ctx, c)
}

// rowsOf reads rows from the lines of an input: a key, "=" and a value. What is
// no key of a datastore is left out.
func rowsOf(input []byte) (rows []oldRow) {
	for line := range bytes.Lines(input) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "=")
		if len(key) > 1 && key[0] == '/' && !strings.HasSuffix(key, "/") {
			rows = append(rows, oldRow{key, []byte(value)})
		}
	}
	return rows
}

func linesOf(rows []oldRow) []byte {
	var b bytes.Buffer
	for _, r := range rows {
		fmt.Fprintf(&b, "%s=%s\n", r.Key, r.Value)
	}
	return b.Bytes()
}

// openLocally opens and closes a replica that hears of no other.
func (r *replica) openLocally(migrated bool) error {
	m, err := NewMerkleCRDT(r.store, testNamespace, localDAG{r.node}, nil, r.opts, nil)
	if err != nil {
		return err
	}
	r.MerkleCRDT = m
	if migrated {
		checkMigrated(r.t, r)
	}
	return r.Close()
}

// namesARow reports whether an error says which row is to blame, or which row's
// block.
func namesARow(err error, rows map[string]string) bool {
	for key := range rows {
		below := strings.TrimPrefix(key, testNamespace.String())
		if _, id, ok := splitID(key); ok && strings.Contains(err.Error(), id.Cid().String()) {
			return true
		}
		if strings.Contains(err.Error(), below) || strings.Contains(err.Error(), fmt.Sprintf("%q", below)) {
			return true
		}
	}
	return false
}
