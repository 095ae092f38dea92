package crdt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	dag "github.com/ipfs/go-merkledag"
	"google.golang.org/protobuf/proto"
)

// The fuzz targets state what must hold for any bytes from a peer or from a
// store. Run one with
//
//	go test -run '^$' -fuzz 'FuzzBlock$' -fuzztime 5m .
//
// The seeds here and those in testdata/fuzz are run by every go test.

// vectors are blocks and broadcasts of the released module (its first, its
// fourth, and that of a named DAG).
var vectors = struct{ blocks, broadcasts []string }{
	blocks: []string{
		"0a0e0a0a0a042f612f621a0276311801",
		"122a0a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc120018000a860112400a042f612f6212382f434951434d534f58454946505255454749524232424d435643334e424c4f3549584b4d4a58414749464b52554e4353334c3635454d445112400a042f612f6212382f4349514d534757454a58413246365745494257425333374e375a35564957484f59354342564b43534d36585645514543563748445356511804",
		"0a150a0b0a022f6e1a056e616d65641801220464616731",
	},
	broadcasts: []string{
		"0a260a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e",
		"0a2c0a2401701220643f13d353ca4dcc6b6115050c211bb3dd845aeef98b0602623e57bd24df15cd120464616731",
	},
}

func addHex(f *testing.F, seeds []string) {
	for _, s := range seeds {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

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

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzBlock(f *testing.F) {
	addHex(f, vectors.blocks)
	s := &blockStore{newDelta: newPBDelta, maxSize: minBlockSize}
	f.Add([]byte{})
	d := newPBDelta()
	d.SetPriority(9)
	d.SetElements(oneElement("/k"))
	d.SetTombstones([]*pb.Element{{Key: "/k", Id: testID(1).dsKey()}, {Key: "/k", Id: "/../x"}})
	b, err := s.build(d, []blockID{testID(1), testID(2)}, testID(3), testID(4))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.raw)
	for _, key := range badKeys {
		f.Add(withDelta(f, b.raw, &pb.Delta{Priority: 1, Elements: append(oneElement("/k"), oneElement(key)...), Tombstones: append(oneElement(key), oneElement("/k")...)}))
	}
	snapshot := &pb.Delta{Priority: 9, Snapshot: true, Elements: []*pb.Element{{Key: "/k", Id: testID(1).dsKey(), Priority: 1}, {Key: "/k", Id: "/x"}}}
	raw, err := encodeNode(mustMarshal(f, snapshot), []blockID{testID(1), testID(2)}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, p := range oddPriorities {
		f.Add(withDelta(f, b.raw, &pb.Delta{Priority: p, Elements: oneElement("/k")}))
	}
	for _, name := range []string{"a/b", "..", strings.Repeat("n", 256)} {
		f.Add(withDelta(f, b.raw, &pb.Delta{Priority: 1, DagName: name}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		id := blockID(sha256.Sum256(raw))
		if _, err := s.decode(testID(1), raw); !errors.Is(err, errWrongBytes) || isFinal(err) {
			t.Errorf("the bytes of another block: %v", err)
		}
		b, err := s.decode(id, raw)
		if err != nil {
			if !isFinal(err) {
				t.Errorf("the bytes are the block's, and the error is not final: %s", err)
			}
			return
		}
		if len(raw) > s.maxSize {
			t.Errorf("%d bytes", len(raw))
		}
		checkContent(t, b.delta, raw)
		checkLinks(t, s, b)
		if again, err := s.decode(id, raw); err != nil || !sameBlock(b, again) {
			t.Errorf("decoded again: %v", err)
		}
		checkRebuilt(t, s, b)
		n := b.node()
		if _, err := n.Size(); err != nil || !bytes.Equal(n.RawData(), raw) || n.Cid() != id.Cid() {
			t.Errorf("the node is another one: %v", err)
		}
	})
}

// withDelta replaces a node's delta.
func withDelta(f *testing.F, raw []byte, d *pb.Delta) []byte {
	node, err := decodeNode(raw)
	if err != nil {
		f.Fatal(err)
	}
	data, err := proto.Marshal(d)
	if err != nil {
		f.Fatal(err)
	}
	node.SetData(data)
	return node.RawData()
}

// checkContent states the rules that an accepted delta obeys anew, without the
// code that checks them.
func checkContent(t *testing.T, d *deltaContent, raw []byte) {
	t.Helper()
	checkDAG(t, d.dag)
	var plain pb.Delta
	if err := proto.Unmarshal(mustDecode(t, raw).Data(), &plain); err != nil {
		t.Fatal(err)
	}
	elements, tombstones := plainElements(plain.GetElements()), plainElements(plain.GetTombstones())
	if plain.GetSnapshot() {
		elements = slices.DeleteFunc(elements, func(e *pb.Element) bool {
			_, ok := parseDsKey(e.GetId())
			return !ok || e.GetPriority() == 0
		})
	}
	if !slices.EqualFunc(slices.Concat(d.elements, d.claims), elements, sameElement) || d.snapshot != (d.elements == nil && plain.GetSnapshot()) || !slices.EqualFunc(d.tombstones, tombstones, sameElement) {
		t.Errorf("of %v there remain %v and %v", &plain, d.elements, d.tombstones)
	}
	if void := len(plain.GetElements()) + len(plain.GetTombstones()) - len(elements) - len(tombstones); d.void != void || (d.fault != nil) != (void > 0) {
		t.Errorf("%d are void (%v), want %d", d.void, d.fault, void)
	}
}

// checkDAG checks the name of a delta's DAG.
func checkDAG(t *testing.T, name string) {
	t.Helper()
	if name != "" && (path.Base("/"+name) != name || name == "/" || name == ".." || len(name) > 255) {
		t.Errorf("DAG name %q", name)
	}
}

func mustDecode(t *testing.T, raw []byte) *dag.ProtoNode {
	t.Helper()
	node, err := dag.DecodeProtobuf(raw)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// plainElements are what counts of elements, in the plainest form.
func plainElements(all []*pb.Element) (kept []*pb.Element) {
	for _, e := range all {
		if key, ok := plainKey(e.GetKey()); ok {
			kept = append(kept, &pb.Element{Key: key, Id: e.GetId(), Value: e.GetValue(), Priority: e.GetPriority()})
		}
	}
	return kept
}

// plainKey is a clean key, if there is any.
func plainKey(key string) (string, bool) {
	var parts []string
	for part := range strings.SplitSeq(key, "/") {
		switch part {
		case "", ".":
		case "..":
			parts = parts[:max(0, len(parts)-1)]
		default:
			parts = append(parts, part)
		}
	}
	clean := "/" + strings.Join(parts, "/")
	if len(parts) == 0 || len(clean) > MaxKeyLength || !utf8.ValidString(clean) {
		return "", false
	}
	return clean, true
}

func checkLinks(t *testing.T, s *blockStore, b *block) {
	t.Helper()
	links, err := decodeLinks(b.raw)
	if err != nil {
		t.Errorf("the links of an accepted block: %s", err)
	}
	var plain []blockID
	for _, l := range links {
		plain = append(plain, l.id)
	}
	known, err := s.decodeKnown(b.id, b.raw)
	if err != nil || !slices.Equal(slices.Concat(known.links, known.covers), plain) || len(known.covers) > 0 && !b.delta.snapshot {
		t.Errorf("decodeKnown: %v", err)
	}
	distinct := make(map[blockID]bool)
	for i, id := range slices.Concat(b.links, b.covers) {
		if distinct[id] || !slices.Contains(plain, id) {
			t.Errorf("link %s is there twice, or in one reading alone", id.Cid())
		}
		distinct[id] = true
		if h := b.heightBelow(i); !b.delta.snapshot && h > max(b.delta.priority, 1)-1 {
			t.Errorf("below link %d of a block of height %d the height is %d", i, b.delta.priority, h)
		}
	}
	for _, id := range plain {
		if !slices.Contains(links, b.linkTo(id)) {
			t.Errorf("no link to %s is %s", id.Cid(), b.linkTo(id).Cid())
		}
		if !distinct[id] {
			t.Errorf("link %s was left out", id.Cid())
		}
	}
	if b.skips > len(b.links) {
		t.Errorf("%d of %d links are skip links", b.skips, len(b.links))
	}
}

func sameBlock(a, b *block) bool {
	return a.delta.priority == b.delta.priority && a.delta.dag == b.delta.dag &&
		slices.EqualFunc(a.delta.elements, b.delta.elements, sameElement) &&
		slices.EqualFunc(a.delta.claims, b.delta.claims, sameElement) && slices.Equal(a.covers, b.covers) &&
		slices.EqualFunc(a.delta.tombstones, b.delta.tombstones, sameElement) &&
		slices.Equal(a.links, b.links) && a.skips == b.skips
}

func sameElement(a, b *pb.Element) bool {
	return a.GetKey() == b.GetKey() && a.GetPriority() == b.GetPriority() && a.GetId() == b.GetId() && bytes.Equal(a.GetValue(), b.GetValue())
}

// checkRebuilt makes the block that we would write with the same content.
func checkRebuilt(t *testing.T, s *blockStore, b *block) {
	t.Helper()
	if p := b.delta.priority; b.delta.snapshot || p == 0 || p > maxPriority {
		return // we do not write such
	}
	d := newPBDelta()
	d.SetElements(b.delta.elements)
	d.SetTombstones(b.delta.tombstones)
	d.SetPriority(b.delta.priority)
	d.SetDagName(b.delta.dag)
	heads := len(b.links) - b.skips
	ours, err := s.build(d, b.links[:heads], b.links[heads:]...)
	if errors.Is(err, ErrTooLarge) {
		return // names and sizes of links may be left out, and ours are not
	}
	if err != nil {
		t.Fatalf("what was accepted cannot be built: %s", err)
	}
	again, err := s.decode(ours.id, ours.raw)
	if err != nil || !sameBlock(again, b) || !sameBlock(ours, b) {
		t.Errorf("built anew the block is another one: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	v := version{id: testID(1), priority: 3, value: []byte("value")}
	f.Add((&record{version: v, losers: true}).encode())
	f.Add((&record{version: v, unresolved: true, blockless: true}).encode())
	f.Add((&loser{version: v, keep: true}).encode())
	f.Add((&loser{version: v}).encode())
	f.Add((&loser{version: version{value: v.value}, keep: true}).encode())
	f.Add([]byte{})
	f.Add((&mark{state: refused}).encode())
	f.Add((&mark{state: stranded}).encode())
	tip := HeadValue{Height: 300, DAGName: "dag"}
	f.Add((&mark{state: pending, missing: 2, tip: tip, links: []blockID{testID(1), testID(2)}, covered: true}).encode())
	f.Add(headRow(tip))
	f.Add(rootRow(tip))
	f.Add(binary.AppendUvarint(nil, 3))
	f.Fuzz(func(t *testing.T, row []byte) {
		stable(t, "record", row, decodeRecord, (*record).encode)
		stable(t, "loser", row, func(b []byte) (*loser, error) { return decodeLoser(testID(1), b) }, (*loser).encode)
		stable(t, "mark", row, decodeMark, (*mark).encode)
		stable(t, "root", row, readRoot, rootRow)
		checkValueIsItsOwn(t, row)
		if m, err := decodeMark(row); err == nil && m.state == unknown {
			t.Error("a row says that its block is unknown")
		}
	})
}

// readRoot reads a root's row as New does.
func readRoot(b []byte) (HeadValue, error) {
	h := newSetHarness()
	row := h.store.keys.root(testID(1), HeadValue{})
	if err := h.store.Put(ctx, row, b); err != nil {
		return HeadValue{}, err
	}
	var f frontier
	err := f.load(ctx, h.store)
	_, roots := f.get()
	return roots[testID(1)], err
}

// stable checks that what is read from a row survives being written and read.
func stable[T any](t *testing.T, kind string, row []byte, decode func([]byte) (T, error), encode func(T) []byte) {
	t.Helper()
	v, err := decode(row)
	if err != nil {
		return
	}
	written := encode(v)
	again, err := decode(written)
	if err != nil || !reflect.DeepEqual(again, v) {
		t.Errorf("%s %x is written as %x, and read as %+v, not %+v: %v", kind, row, written, again, v, err)
	}
	if next := encode(again); !bytes.Equal(next, written) {
		t.Errorf("%s %x is written as %x, then as %x", kind, row, written, next)
	}
}

// checkValueIsItsOwn checks that a value that grows spoils nothing behind the
// row, and that what was encoded does not change with the row.
func checkValueIsItsOwn(t *testing.T, row []byte) {
	t.Helper()
	buffer := append(slices.Clone(row), "behind"...)
	row = buffer[:len(row)]
	var values [][]byte
	if r, err := decodeRecord(row); err == nil {
		values = append(values, r.value)
	}
	if l, err := decodeLoser(testID(1), row); err == nil {
		values = append(values, l.value)
	}
	for _, v := range values {
		_ = append(v, '!')
		if string(buffer[len(row):]) != "behind" {
			t.Fatal("the bytes behind the row have changed")
		}
	}
}

func FuzzKeys(f *testing.F) {
	for _, k := range []string{"/a/b", "/", "", "//", "/../x", "/a%2Fb", "/%25", "/s/t/x", "/" + testID(1).String(), "/a/" + testID(2).String(), "a", "/\xff", "/\x00", "/a/", "a/b", "..", "/a/.."} {
		f.Add(k, "/a/b")
	}
	f.Add("/a%2Fb", "/a/b")
	f.Add("/a\n", testID(1).dsKey()+"\n")
	keys := newKeyspace(ds.NewKey("/n"), InternalNamespaces{"h", "a", "s", "b", "d", "bs", "v"})
	f.Fuzz(func(t *testing.T, k, other string) {
		clean, err := cleanKey(k)
		if want, ok := plainKey(k); clean != want || ok != (err == nil) {
			t.Errorf("%q is cleaned to %q (%v), want %q", k, clean, err, want)
		}
		if isKey(k) != (err == nil && clean == k) {
			t.Errorf("isKey(%q): %v", k, isKey(k))
		}
		checkRowNames(t, keys, clean)
		checkEscaping(t, keys, k, other)
		checkNames(t, k)
		for _, s := range []string{k, other} {
			if rest, id, ok := splitID(s); ok && id.under(rest) != s {
				t.Errorf("%q is split into %q and %q", s, rest, id)
			}
			if id, ok := parseDsKey(s); ok && id.dsKey() != s {
				t.Errorf("%q is taken for %q", s, id.dsKey())
			}
		}
	})
}

// checkRowNames checks that the rows of a key that is let in, once it is clean,
// are in their places below the namespace.
func checkRowNames(t *testing.T, keys *keyspace, k string) {
	t.Helper()
	if k == "" {
		return
	}
	id := testID(3)
	for prefix, row := range map[string]ds.Key{
		"/n/s/r": keys.record(k),
		"/n/s/l": keys.loser(k, id),
		"/n/s/t": keys.tombstone(k, id),
	} {
		if s := row.String(); path.Clean(s) != s || !strings.HasPrefix(s, prefix+"/") {
			t.Errorf("key %q has the row %q", k, s)
		}
	}
	for row, want := range map[ds.Key]string{keys.loser(k, id): keys.losersOf(k), keys.tombstone(k, id): keys.tombstones + k} {
		if rest, got, ok := splitID(row.String()); !ok || got != id || rest != want {
			t.Errorf("row %q is split into %q and %q", row, rest, got)
		}
	}
	if row := keys.loser(k, id).String(); len(row) > 3*MaxKeyLength+100 {
		t.Errorf("a row's name has %d bytes", len(row))
	}
}

// checkEscaping checks that no key's losers are found among another's.
func checkEscaping(t *testing.T, keys *keyspace, k, other string) {
	t.Helper()
	part := escapeKey.Replace(k)
	if back, err := url.PathUnescape(part); err != nil || back != k || strings.Contains(part, "/") {
		t.Errorf("%q is escaped to %q, which means %q: %v", k, part, back, err)
	}
	a, b := keys.losersOf(k), keys.losersOf(other)
	if k != other && (a == b || strings.HasPrefix(a+"/", b+"/")) {
		t.Errorf("the losers of %q are at %q, those of %q at %q", k, a, other, b)
	}
}

// checkNames checks that the head of a DAG that is let in is found again.
func checkNames(t *testing.T, name string) {
	t.Helper()
	if checkDAGName(name) != nil {
		return
	}
	h := newSetHarness()
	id, v := testID(3), HeadValue{Height: 7, DAGName: name}
	if err := h.store.Put(ctx, h.store.keys.head(id, v), headRow(v)); err != nil {
		t.Fatal(err)
	}
	var f frontier
	err := f.load(ctx, h.store)
	if heads, _ := f.get(); err != nil || len(heads) != 1 || heads[id] != v {
		t.Errorf("a head of DAG %q is stored as %q and loaded as %v: %v", name, h.store.keys.head(id, v), heads, err)
	}
}

// fuzzSource makes a random choice of each byte of the input, and goes on with
// a generator when there are none left.
type fuzzSource struct {
	input []byte
	rest  *rand.PCG
}

func (s *fuzzSource) Uint64() uint64 {
	if len(s.input) == 0 {
		return s.rest.Uint64()
	}
	b := uint64(s.input[0])
	s.input = s.input[1:]
	return b<<56 | b<<24 | 1<<31 // IntN and Shuffle look at the high bits of either half
}

func FuzzMerge(f *testing.F) {
	f.Add(uint8(5), []byte{})
	f.Add(uint8(9), []byte("some deltas, in some order, in some groups"))
	f.Add(uint8(12), bytes.Repeat([]byte{0, 0xff, 0x80}, 40))
	for i := range uint8(20) {
		f.Add(11-i%3, []byte{i * 13})
	}
	f.Fuzz(func(t *testing.T, n uint8, input []byte) {
		rng := rand.New(&fuzzSource{input, rand.NewPCG(uint64(n), 7)})
		blocks := randomDeltas(rng, 1+int(n%12))
		model := make(modelSet)
		for _, b := range blocks {
			model.merge(b)
		}
		for range 2 {
			rng.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
			h := newSetHarness()
			for i := 0; i < len(blocks); {
				group := min(1+rng.IntN(4), len(blocks)-i)
				h.commit(t, blocks[i:i+group]...)
				i += group
			}
			if got, want := h.pairs(t), model.pairs(); !maps.Equal(got, want) {
				t.Fatalf("merged they are %v, want %v", got, want)
			}
		}
	})
}

// Rows that are not of the datastore: neighbours of its namespace in every way.
var neighbours = []oldRow{
	{"/crdt", []byte("the namespace itself")},
	{"/crdtx/s/r/k", []byte("longer")},
	{"/crdt2", []byte("longer")},
	{"/crd/s/r/k", []byte("shorter")},
	{"/other/crdt/h", []byte("elsewhere")},
	{"/h/x", []byte("named as a row within")},
}

// plantNeighbours puts rows beside the namespace; what they are is to be
// checked with beside.
func plantNeighbours(t *testing.T, store ds.Datastore) {
	t.Helper()
	for _, r := range neighbours {
		if err := store.Put(ctx, ds.RawKey(r.Key), r.Value); err != nil {
			t.Fatal(err)
		}
	}
}

// checkNeighbours checks that nothing was written beside the namespace.
func checkNeighbours(t *testing.T, store ds.Datastore) {
	t.Helper()
	want := make(map[string]string)
	for _, r := range neighbours {
		want[r.Key] = string(r.Value)
	}
	got := dump(t, store)
	maps.DeleteFunc(got, func(k, _ string) bool { return strings.HasPrefix(k, testNamespace.String()+"/") })
	if !maps.Equal(got, want) {
		t.Errorf("rows outside the namespace have changed\n%s", diff(got, want))
	}
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

// isOld tells whether the rows are those of a store that has to be migrated.
func (o *oldStore) isOld() bool {
	for _, r := range slices.Backward(o.Rows) { // the last of a name counts
		if r.Key == "/crdt_version" {
			return string(r.Value) == "\x01" || string(r.Value) == "\x02"
		}
	}
	return true
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

// namesARow tells whether an error says which row is to blame, or which row's
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
