package crdt

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
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

// joined adds what the old module wrote beside it.
func (o *oldStore) joined(theirs *oldStore) *oldStore {
	c := *o
	c.Rows = slices.DeleteFunc(slices.Clone(o.Rows), func(r oldRow) bool { return ds.NewKey(r.Key).Parent().String() == "/h" })
	c.Rows = append(c.Rows, theirs.Rows...)
	c.Blocks = slices.Concat(o.Blocks, theirs.Blocks)
	return c.with("/crdt_version", 3)
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

// isOld reports whether the rows are those of a store that has to be migrated.
func (o *oldStore) isOld() bool {
	for _, r := range slices.Backward(o.Rows) { // the last of a name counts
		if r.Key == "/crdt_version" {
			return string(r.Value) == "\x01" || string(r.Value) == "\x02"
		}
	}
	return true
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

func decodeCID(t testing.TB, s string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addBlocks(t *testing.T, node *testNode, blocks []oldBlock) {
	t.Helper()
	for _, b := range blocks {
		if err := node.addRaw(decodeCID(t, b.Cid), b.Data); err != nil {
			t.Fatal(err)
		}
	}
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

// capture returns what a replica leaves when it is closed.
func (r *replica) capture(name string) *oldStore {
	r.t.Helper()
	r.must(r.Close())
	o := &oldStore{name: name}
	for _, e := range r.rowsUnder("") {
		o.Rows = append(o.Rows, oldRow{e.Key[len(testNamespace.String()):], e.Value})
	}
	for c, raw := range r.node.blocks {
		o.Blocks = append(o.Blocks, oldBlock{c.String(), raw})
	}
	return o
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
