package crdt

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
	"google.golang.org/protobuf/proto"
)

// forge makes a block that no honest replica would, puts it into the network
// and returns its CID.
func (node *testNode) forge(t *testing.T, data []byte, links ...cid.Cid) cid.Cid {
	t.Helper()
	nd := merkledag.NodeWithData(data)
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

// forgePriority makes a block of a priority that says nothing else of interest.
func (node *testNode) forgePriority(t *testing.T, p uint64, links ...cid.Cid) cid.Cid {
	return node.forge(t, marshalDelta(t, &pb.Delta{Priority: p, Elements: oneElement(fmt.Sprint("/p", p))}), links...)
}

// forgeV0 makes a block as histories that began before 2021 have them.
func (node *testNode) forgeV0(t *testing.T, d *pb.Delta, links ...cid.Cid) cid.Cid {
	t.Helper()
	nd := merkledag.NodeWithData(marshalDelta(t, d)) // its CID is of version 0
	for _, c := range links {
		if err := nd.AddRawLink("", &ipld.Link{Cid: c}); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Add(ctx, nd); err != nil || nd.Cid().Version() != 0 {
		t.Fatal(nd.Cid(), err)
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

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustDecode(t *testing.T, raw []byte) *merkledag.ProtoNode {
	t.Helper()
	node, err := merkledag.DecodeProtobuf(raw)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// An element that passes unless something else is wrong.
func oneElement(key string) []*pb.Element { return []*pb.Element{{Key: key, Value: []byte("evil")}} }

func tombstoneOf(t *testing.T, key string, c cid.Cid) *pb.Element {
	id, err := blockIDOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Element{Key: key, Id: id.dsKey()}
}

// testID is the id of an invented block.
func testID(i int) blockID { return blockID{0: byte(i >> 8), 1: byte(i), 31: 1} }

func testIDs(i int) []byte { id := testID(i); return id[:] }

func testIDOf(n int) (id blockID) {
	binary.LittleEndian.PutUint64(id[:], uint64(n))
	return id
}

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

// randomDeltas invents deltas that add and remove versions of a few keys. Some
// have a key twice, some remove what does not exist.
func randomDeltas(rng *rand.Rand, n int) []*block {
	blocks := make([]*block, n)
	for i := range blocks {
		d := &deltaContent{priority: pick[uint64](rng, 0, 1, 2, maxPriority, math.MaxUint64)}
		for range rng.IntN(4) {
			d.elements = append(d.elements, &pb.Element{Key: fmt.Sprintf("/k%d", rng.IntN(4)), Value: []byte{byte('a' + rng.IntN(3))}})
		}
		for range rng.IntN(4) {
			other := rng.IntN(n)
			if other == i {
				continue // a block cannot name itself
			}
			d.tombstones = append(d.tombstones, &pb.Element{Key: fmt.Sprintf("/k%d", rng.IntN(4)), Id: testID(other).dsKey()})
		}
		blocks[i] = &block{id: testID(i), delta: d}
	}
	return blocks
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

// setHarness merges invented blocks: their marks are kept beside the set.
type setHarness struct {
	store  *rowStore
	merged map[blockID]*block
}

func newSetHarness() *setHarness {
	keys := newKeyspace(ds.NewKey("/n"), InternalNamespaces{"h", "a", "s", "b", "d", "bs", "v"})
	store, err := newRowStore(ctx, newAtomicStore(), keys)
	if err != nil {
		panic(err)
	}
	return &setHarness{store: store, merged: make(map[blockID]*block)}
}

// commit merges blocks in one commit, fetching losers' values when asked to.
func (h *setHarness) commit(t *testing.T, blocks ...*block) {
	t.Helper()
	fetched := make(map[versionName]*loser)
	for {
		c := newSetChange(h.store, true, true)
		c.fetched = fetched
		now := make(map[blockID]bool)
		for _, b := range blocks {
			isMerged := func(_ context.Context, id blockID) (bool, error) { return h.merged[id] != nil || now[id], nil }
			if err := c.merge(ctx, b.id, b.delta, isMerged); err != nil {
				t.Fatal(err)
			}
			now[b.id] = true
		}
		err := c.electWinners(ctx)
		missing, _ := err.(missingValues)
		if err != nil && missing == nil {
			t.Fatal(err)
		}
		if err == nil {
			if err := h.store.write(ctx, c.rows()); err != nil {
				t.Fatal(err)
			}
			break
		}
		for _, n := range missing {
			if b := h.merged[n.id]; b != nil {
				fetched[n] = b.versions()[n.key]
			} else {
				t.Fatalf("the value of %s in block %v is asked for, which is not merged", n.key, n.id)
			}
		}
	}
	for _, b := range blocks {
		h.merged[b.id] = b
	}
}

func (h *setHarness) pairs(t *testing.T) map[string]string {
	t.Helper()
	pairs := make(map[string]string)
	for e, err := range h.store.rowsUnder(ctx, h.store.keys.records, false, 0) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := decodeRecord(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		checkLosers(t, h.store, e.Key, r)
		pairs[e.Key] = string(r.value)
	}
	return pairs
}

// wideBlock makes a block of such a height that links to many that nobody has.
func (node *testNode) wideBlock(t *testing.T, height uint64) cid.Cid {
	var links []cid.Cid
	for i := range 20_000 {
		links = append(links, unavailable(i))
	}
	return node.forge(t, marshalDelta(t, &pb.Delta{Priority: height}), links...)
}

// bulkyBlock makes a small block that takes much memory: 0.6 MiB.
func (node *testNode) bulkyBlock(t *testing.T, height uint64) cid.Cid {
	d := &pb.Delta{Priority: height}
	for range 2500 {
		d.Elements = append(d.Elements, &pb.Element{Key: "/a"})
	}
	return node.forge(t, marshalDelta(t, d))
}

// forgeMany makes blocks of a key each.
func (node *testNode) forgeMany(t *testing.T, values ...string) (blocks []cid.Cid) {
	for i, v := range values {
		d := &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: fmt.Sprint("/k", i), Value: []byte(v)}}}
		blocks = append(blocks, node.forge(t, marshalDelta(t, d)))
	}
	return blocks
}
