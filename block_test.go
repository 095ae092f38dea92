package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

// The vectors of the wire format, byte for byte. They are without tags.
func TestVectors(t *testing.T) {
	want := []string{
		"bafybeibgjhlsecxy2cdeiq5awbkrnwqvxoulvge3qdecvi2grjnv7osgby", "0a0e0a0a0a042f612f621a0276311801",
		"0a260a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e",
		"bafybeigjdlce3qnc7lcea3azn7w7462uldxmora2vbjgpl2sicbk7trzky", "122a0a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e120018000a0e0a0a0a042f612f621a0276321802",
		"0a260a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956",
		"bafybeiba6k3dobnrxvxmpp4574akwa2znephwgrhbdxku4k7kpxod2u4zq", "122a0a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956120018000a0b0a070a022f611a01701803",
		"0a260a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc",
		"bafybeicd5ak4yuyrwdpz3b6tsoupdv6mvfezbt3w36lopra7t2kc7tmrmq", "122a0a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc120018000a860112400a042f612f6212382f434951434d534f58454946505255454749524232424d435643334e424c4f3549584b4d4a58414749464b52554e4353334c3635454d445112400a042f612f6212382f4349514d534757454a58413246365745494257425333374e375a35564957484f59354342564b43534d36585645514543563748445356511804",
		"0a260a240170122043e815cc5311b0df9d87d393a8f1d7cca94990cf76df96e7c41f9e942fcd9164",
		"bafybeideh4j5gu6kjxggwyivaugccg5t3wcfv3xzrmdaeyr6k66sjxyvzu", "0a150a0b0a022f6e1a056e616d65641801220464616731",
		"0a2c0a2401701220643f13d353ca4dcc6b6115050c211bb3dd845aeef98b0602623e57bd24df15cd120464616731",
	}
	r := newTestNet().newReplica(t, func(o *Options) { o.RebroadcastInterval = time.Hour })
	r.Datastore.blocks.newTag = func() []byte { return nil }
	step := 0
	check := func() {
		t.Helper()
		waitFor(t, "the announcement", func() bool {
			r.node.net.mu.Lock()
			defer r.node.net.mu.Unlock()
			return len(r.node.messages) > step
		})
		r.node.net.mu.Lock()
		defer r.node.net.mu.Unlock()
		c, err := cid.Decode(want[3*step])
		r.must(err)
		if got := hex.EncodeToString(r.node.blocks[c]); got != want[3*step+1] {
			t.Errorf("block %d is %s, want %s", step, got, want[3*step+1])
		}
		if got := hex.EncodeToString(r.node.messages[step]); got != want[3*step+2] {
			t.Errorf("broadcast %d is %s, want %s", step, got, want[3*step+2])
		}
		step++
	}
	r.put("/a/b", "v1")
	check()
	r.put("/a/b", "v2")
	check()
	r.put("/a", "p")
	check()
	r.del("/a/b")
	check()
	d, err := r.Set().Add(ctx, "/n", []byte("named"))
	r.must(err)
	d.SetDagName("dag1")
	_, err = r.Publish(ctx, d)
	r.must(err)
	check()
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
	summary := &pb.Delta{Priority: 9, Snapshot: true, Elements: []*pb.Element{{Key: "/k", Id: testID(1).dsKey(), Priority: 1}, {Key: "/k", Id: "/x"}}}
	raw, err := encodeNode(mustMarshal(f, summary), []blockID{testID(1), testID(2)}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(withDelta(f, b.raw, checkpointDelta(9)))
	malformed, err := encodeNode(appendBytes([]byte{0x18, 9}, checkpointField, []byte{0xff}), []blockID{testID(1)}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(malformed)
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
	checkDAG(t, d.dagName)
	var plain pb.Delta
	if err := proto.Unmarshal(withoutField(mustDecode(t, raw).Data(), checkpointField), &plain); err != nil {
		t.Fatal(err)
	}
	if n := d.snapshot; n != nil && (len(plain.GetElements())+len(plain.GetTombstones()) > 0 || plain.GetSnapshot() || *readSnapshotName(n.message()) != *n) {
		t.Errorf("%v is taken for a checkpoint, with snapshot %+v", &plain, n)
	}
	elements, tombstones := plainElements(plain.GetElements()), plainElements(plain.GetTombstones())
	if plain.GetSnapshot() {
		elements = slices.DeleteFunc(elements, func(e *pb.Element) bool {
			_, ok := parseDsKey(e.GetId())
			return !ok || e.GetPriority() == 0
		})
	}
	if !slices.EqualFunc(slices.Concat(d.elements, d.claims), elements, sameElement) || d.summary != (d.elements == nil && plain.GetSnapshot()) || !slices.EqualFunc(d.tombstones, tombstones, sameElement) {
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
	if err != nil || !slices.Equal(slices.Concat(known.links, known.summed), plain) || len(known.summed) > 0 && !b.delta.summary || b.delta.snapshot != nil && !known.namesSnapshot {
		t.Errorf("decodeKnown: %v", err)
	}
	distinct := make(map[blockID]bool)
	for i, id := range slices.Concat(b.links, b.summed) {
		if distinct[id] || !slices.Contains(plain, id) {
			t.Errorf("link %s is there twice, or in one reading alone", id.Cid())
		}
		distinct[id] = true
		if h := b.heightBelow(i); !b.delta.summary && h > max(b.delta.priority, 1)-1 {
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
	return a.delta.priority == b.delta.priority && a.delta.dagName == b.delta.dagName &&
		slices.EqualFunc(a.delta.elements, b.delta.elements, sameElement) &&
		slices.EqualFunc(a.delta.claims, b.delta.claims, sameElement) && slices.Equal(a.summed, b.summed) &&
		slices.EqualFunc(a.delta.tombstones, b.delta.tombstones, sameElement) &&
		slices.Equal(a.links, b.links) && a.skips == b.skips
}

func sameElement(a, b *pb.Element) bool {
	return a.GetKey() == b.GetKey() && a.GetPriority() == b.GetPriority() && a.GetId() == b.GetId() && bytes.Equal(a.GetValue(), b.GetValue())
}

// checkRebuilt makes the block that we would write with the same content.
func checkRebuilt(t *testing.T, s *blockStore, b *block) {
	t.Helper()
	if p := b.delta.priority; b.delta.summary || p == 0 || p > maxPriority {
		return // we do not write such
	}
	d := newPBDelta()
	d.SetElements(b.delta.elements)
	d.SetTombstones(b.delta.tombstones)
	d.SetPriority(b.delta.priority)
	d.SetDagName(b.delta.dagName)
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
