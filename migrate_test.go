package crdt

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// An oldStore is a store of format 0 or 1 and its blocks.
type oldStore struct {
	name      string
	About     string
	Rows      []oldRow // keys below the namespace
	Blocks    []oldBlock
	Pairs     []oldRow // what the released module showed
	Missing   []oldBlock
	Completed []oldRow // pairs once the missing blocks are there
}

type oldRow struct {
	Key   string
	Value []byte
}

type oldBlock struct {
	Cid  string
	Data []byte
}

// writtenStores are the stores that the released module wrote.
func writtenStores(t testing.TB) []*oldStore {
	t.Helper()
	files, err := filepath.Glob("testdata/old-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d old stores in testdata: %v", len(files), err)
	}
	var all []*oldStore
	for _, f := range files {
		all = append(all, readOldStore(t, f))
	}
	return all
}

func writtenStore(t *testing.T, name string) *oldStore {
	t.Helper()
	return readOldStore(t, "testdata/"+name+".json")
}

func readOldStore(t testing.TB, file string) *oldStore {
	t.Helper()
	o := &oldStore{name: strings.TrimSuffix(filepath.Base(file), ".json")}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// pairsOf turns what the released module showed into what we show: there is no
// pair for the key "/", which it shows as "".
func pairsOf(rows []oldRow) map[string]string {
	pairs := make(map[string]string)
	for _, r := range rows {
		if r.Key != "" {
			pairs[r.Key] = string(r.Value)
		}
	}
	return pairs
}

func (o *oldStore) has(key string) bool {
	return slices.ContainsFunc(o.Rows, func(r oldRow) bool { return r.Key == key })
}

func (o *oldStore) without(key string) *oldStore {
	c := *o
	c.Rows = slices.DeleteFunc(slices.Clone(o.Rows), func(r oldRow) bool { return r.Key == key })
	return &c
}

func (o *oldStore) with(key string, value ...byte) *oldStore {
	c := o.without(key)
	c.Rows = append(c.Rows, oldRow{key, value})
	return c
}

// live returns the live versions of each key as the rows tell them.
func (o *oldStore) live() map[string][]blockID {
	live := make(map[string][]blockID)
	for _, r := range o.Rows {
		version, ok := strings.CutPrefix(r.Key, "/s/s")
		if key, id, isID := splitID(version); ok && isID && !o.has("/s/t"+version) {
			live[key] = append(live[key], id)
		}
	}
	return live
}

// contested returns the keys with the given number of live versions or more.
func (o *oldStore) contested(versions int) []string {
	var keys []string
	for key, ids := range o.live() {
		if len(ids) >= versions && key != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// model merges the blocks that the store says are merged.
func (o *oldStore) model(t *testing.T) modelSet {
	t.Helper()
	blocks := &blockStore{newDelta: newPBDelta, maxSize: 2 << 20}
	model := make(modelSet)
	for _, raw := range o.Blocks {
		id, err := blockIDOf(decodeCID(t, raw.Cid))
		if err != nil {
			t.Fatal(err)
		}
		b, err := blocks.parse(id, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if o.has("/b" + id.dsKey()) {
			model.merge(b)
		}
	}
	return model
}

func decodeCID(t testing.TB, s string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (o *oldStore) fill(t *testing.T, store ds.Datastore, namespace ds.Key) {
	t.Helper()
	root := strings.TrimSuffix(namespace.String(), "/")
	for _, r := range o.Rows {
		if err := store.Put(ctx, ds.RawKey(root+r.Key), r.Value); err != nil {
			t.Fatal(err)
		}
	}
}

func addBlocks(t *testing.T, node *testNode, blocks []oldBlock) {
	t.Helper()
	for _, b := range blocks {
		if err := node.addRaw(decodeCID(t, b.Cid), b.Data); err != nil {
			t.Fatal(err)
		}
	}
}

// open migrates the store and returns the replica on it. At the end of the
// test it is closed and everything in its store is checked.
func (o *oldStore) open(t *testing.T, store ds.Datastore, change ...func(*Options)) *replica {
	t.Helper()
	r := &replica{t: t, store: store, node: newTestNet().node(), opts: testOptions()}
	for _, f := range change {
		f(r.opts)
	}
	o.fill(t, store, testNamespace)
	addBlocks(t, r.node, o.Blocks)
	r.open()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("closing: %s", err)
		}
		checkStore(t, r)
	})
	return r
}

func (r *replica) holds(when string, want map[string]string) {
	r.t.Helper()
	if got := r.pairs(); !maps.Equal(got, want) {
		r.t.Fatalf("%s the store holds\n%.2000q, want\n%.2000q", when, got, want)
	}
}

func (r *replica) waitUntilClean() {
	r.t.Helper()
	waitFor(r.t, "the repair", func() bool { return !r.IsDirty(ctx) })
}

// eachOldStore runs a test on every store that the released module wrote, on a
// map store and on Badger.
func eachOldStore(t *testing.T, test func(*testing.T, *oldStore, ds.Datastore)) {
	eachOf(t, writtenStores(t), test)
}

func eachOf(t *testing.T, old []*oldStore, test func(*testing.T, *oldStore, ds.Datastore)) {
	for _, o := range old {
		for _, kind := range []string{"map", "badger"} {
			t.Run(o.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				test(t, o, stores[kind](t))
			})
		}
	}
}

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

// live returns the live versions of a key, the best first.
func (m modelSet) live(key string) []version {
	var live []version
	for id, v := range m.key(key).versions {
		if !m[key].tombstones[id] {
			live = append(live, v)
		}
	}
	slices.SortFunc(live, func(a, b version) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(string(b.value), string(a.value)))
	})
	return live
}

// fromPeer has another replica publish tombstones on top of the heads, and
// waits until they are merged.
func (r *replica) fromPeer(tombstones []*pb.Element) *block {
	r.t.Helper()
	heads, _ := r.frontier.get()
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

// A cutTest opens one old store again and again, each time on a fresh copy.
type cutTest struct {
	t     *testing.T
	old   *oldStore
	node  *testNode
	plain bool // the store has no batches
	want  map[string]string
}

func newCutTest(t *testing.T, o *oldStore, plain bool) *cutTest {
	t.Helper()
	c := &cutTest{t: t, old: o, node: newTestNet().node(), plain: plain}
	addBlocks(t, c.node, o.Blocks)
	store := c.fresh()
	if err := c.open(store, -1); err != nil {
		t.Fatal(err)
	}
	c.want = dump(t, store)
	return c
}

func (c *cutTest) fresh() ds.Batching {
	c.t.Helper()
	store := newAtomicStore()
	c.old.fill(c.t, store, testNamespace)
	return store
}

// mortal is the store as one that dies after some writes; negative: it does not.
func (c *cutTest) mortal(store ds.Batching, writes int) ds.Datastore {
	faulty := newFaultyStore()
	faulty.Batching = store
	faulty.dieAfter(writes)
	var s ds.Datastore = faulty
	if c.plain {
		s = plainStore{s}
	}
	return s
}

// open opens and closes the store, which dies after some writes; negative: it
// does not.
func (c *cutTest) open(store ds.Batching, writes int) error {
	s := c.mortal(store, writes)
	opts := testOptions()
	opts.RepairInterval = 0 // it writes whenever it likes
	d, err := New(s, testNamespace, c.node, nil, opts)
	if err != nil {
		return err
	}
	return d.Close()
}

func (c *cutTest) finish(store ds.Batching, when string) {
	c.t.Helper()
	if err := c.open(store, -1); err != nil {
		c.t.Fatalf("%s: the store does not open: %s", when, err)
	}
	if got := dump(c.t, store); !maps.Equal(got, c.want) {
		c.t.Errorf("%s: the migrated store is another one\n%s", when, diff(got, c.want))
	}
}

// cutEverywhere cuts the migration off at its first write, at its second, and
// so on, and has it finished each time.
func (c *cutTest) cutEverywhere() {
	c.t.Helper()
	for n := 0; !c.t.Failed(); n++ {
		store := c.fresh()
		err := c.open(store, n)
		if err == nil {
			return
		}
		if !errors.Is(err, errDied) {
			c.t.Fatalf("write %d: %s", n+1, err)
		}
		c.finish(store, fmt.Sprintf("cut off at write %d", n+1))
	}
}

func dump(t *testing.T, store ds.Datastore) map[string]string {
	t.Helper()
	res, err := store.Query(ctx, query.Query{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := res.Rest()
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string, len(all))
	for _, e := range all {
		rows[e.Key] = string(e.Value)
	}
	return rows
}

func diff(got, want map[string]string) string {
	var lines []string
	for key, value := range got {
		if w, ok := want[key]; !ok || w != value {
			lines = append(lines, fmt.Sprintf("has   %s = %.100q", key, value))
		}
	}
	for key, value := range want {
		if g, ok := got[key]; !ok || g != value {
			lines = append(lines, fmt.Sprintf("wants %s = %.100q", key, value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines[:min(len(lines), 4)], "\n")
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

// An oldWriter writes a store of format 1 by compat.md §4.
type oldWriter struct {
	t      *testing.T
	store  *oldStore
	blocks *blockStore
	model  modelSet
	heads  []blockID
	height uint64
}

func newOldWriter(t *testing.T) *oldWriter {
	return &oldWriter{
		t:      t,
		store:  &oldStore{name: "synthetic"},
		blocks: &blockStore{newDelta: newPBDelta, maxSize: 2 << 20},
		model:  make(modelSet),
	}
}

// write adds a block with its rows.
func (w *oldWriter) write(elements, tombstones []*pb.Element) {
	w.t.Helper()
	w.height++
	d := newPBDelta()
	d.SetElements(elements)
	d.SetTombstones(tombstones)
	d.SetPriority(w.height)
	b, err := w.blocks.build(d, w.heads)
	if err != nil {
		w.t.Fatal(err)
	}
	w.heads = []blockID{b.id}
	w.model.merge(b)
	w.store.Blocks = append(w.store.Blocks, oldBlock{b.id.Cid().String(), b.raw})
	w.row("/b"+b.id.dsKey(), nil)
	for _, e := range elements {
		w.row("/s/s"+e.GetKey()+b.id.dsKey(), nil)
	}
	for _, e := range tombstones {
		w.row("/s/t"+e.GetKey()+e.GetId(), nil)
	}
}

func (w *oldWriter) row(key string, value []byte) {
	w.store.Rows = append(w.store.Rows, oldRow{key, value})
}

// finish writes the rows that sum it all up.
func (w *oldWriter) finish() *oldStore {
	for key := range w.model {
		if live := w.model.live(key); len(live) > 0 {
			w.row("/s/k"+key+"/v", live[0].value)
			w.row("/s/k"+key+"/p", binary.AppendUvarint(nil, live[0].priority+1))
			w.store.Pairs = append(w.store.Pairs, oldRow{key, live[0].value})
		}
	}
	for _, id := range w.heads {
		w.row("/h"+id.dsKey(), binary.AppendUvarint(nil, w.height))
	}
	w.row("/crdt_version", []byte{2})
	return w.store
}

// synthesize makes an old store in which many keys were put and every fourth
// was overwritten. Then every fifth was deleted, and every eighth lost the
// better one of its two versions.
func synthesize(t *testing.T, keys, valueSize int) *oldStore {
	t.Helper()
	w := newOldWriter(t)
	perBlock := min(100, 1<<20/valueSize)
	put := func(step int, value string) {
		for first := 0; first < keys; first += perBlock * step {
			var elements []*pb.Element
			for i := first; i < min(first+perBlock*step, keys); i += step {
				elements = append(elements, &pb.Element{Key: fmt.Sprintf("/k/%d", i), Value: fmt.Appendf(nil, "%0*d%s", valueSize, i, value)})
			}
			w.write(elements, nil)
		}
	}
	put(1, "old")
	put(4, "new")
	for i := 0; i < keys; i += 500 {
		var tombstones []*pb.Element
		for j := i; j < min(i+500, keys); j += 5 {
			key := fmt.Sprintf("/k/%d", j)
			for _, v := range w.model.live(key) {
				tombstones = append(tombstones, tombstonesFor(key, []blockID{v.id})...)
			}
		}
		for j := (i + 7) / 8 * 8; j < min(i+500, keys); j += 8 {
			key := fmt.Sprintf("/k/%d", j)
			if j%5 == 0 {
				continue // all its versions go
			}
			tombstones = append(tombstones, tombstonesFor(key, []blockID{w.model.live(key)[0].id})...)
		}
		w.write(nil, tombstones)
	}
	return w.finish()
}

// spoiled returns the store as one of format 0, in which keys with tombstones
// have wrong values.
func (o *oldStore) spoiled() *oldStore {
	tombstoned := make(map[string]bool)
	for _, r := range o.Rows {
		if version, ok := strings.CutPrefix(r.Key, "/s/t"); ok {
			key, _, _ := splitID(version)
			tombstoned["/s/k"+key+"/v"] = true
		}
	}
	c := o.without("/crdt_version")
	for i, r := range c.Rows {
		if tombstoned[r.Key] {
			c.Rows[i].Value = []byte("wrong")
		}
	}
	return c
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

func TestNewerVersionIsRefusedAndNothingTouched(t *testing.T) {
	redo := encodeRedo([]row{{key: testNamespace.ChildString("s/r/k"), value: []byte("whatever it means there")}})
	for name, o := range map[string]*oldStore{
		"next format":             writtenStore(t, "old-v1-joined").with("/crdt_version", 0x84),
		"next format, as uvarint": writtenStore(t, "old-v1-joined").with("/crdt_version", 4),
		"far future":              writtenStore(t, "old-v1-joined").with("/crdt_version", 0xff, 0x7f),
		"not closed":              writtenStore(t, "old-v1-joined").with("/crdt_version", 4).with("/bs"),
		"in the midst of a write": writtenStore(t, "old-v1-joined").with("/crdt_version", 4).with("/w", redo...),
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/plain=%v", name, plain), func(t *testing.T) {
				if err := openUntouched(t, o, plain); !errors.Is(err, ErrNewerVersion) {
					t.Errorf("New: %v", err)
				}
			})
		}
	}
}

// The first stores of format 2 had a version row that the old module does not
// refuse.
func TestPlainVersionRowIsReplaced(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	r.must(r.store.Put(ctx, testNamespace.ChildString("crdt_version"), []byte{3}))
	r.restart()
	r.holds("with a plain version row,", map[string]string{"/k": "v"})
	checkMigrated(t, r)
}

func TestMalformedVersionIsNamed(t *testing.T) {
	for _, value := range [][]byte{{}, {0}, {0x80}, slices.Repeat([]byte{0xff}, 11)} {
		err := openUntouched(t, writtenStore(t, "old-v1-joined").with("/crdt_version", value...), false)
		if err == nil || errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), "/crdt/crdt_version") {
			t.Errorf("a version row of %x: %v", value, err)
		}
	}
}

// openUntouched returns the error of opening a store, which must be left as it is.
func openUntouched(t *testing.T, o *oldStore, plain bool) error {
	t.Helper()
	c := &cutTest{t: t, old: o, node: newTestNet().node(), plain: plain}
	store := c.fresh()
	before := dump(t, store)
	err := c.open(store, -1)
	if after := dump(t, store); err != nil && !maps.Equal(before, after) {
		t.Errorf("the store was changed\n%s", diff(after, before))
	}
	return err
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
