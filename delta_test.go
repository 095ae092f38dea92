package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// voidDeltas have one element or tombstone that is void, and another, /good.
func voidDeltas() map[string]*pb.Delta {
	deltas := make(map[string]*pb.Delta)
	for name, key := range map[string]string{"root": "/", "no": "", "cleaned to the root": "/a/../..", "endless": endlessKey} {
		deltas[name+" key"] = &pb.Delta{Priority: 1, Elements: slices.Concat(oneElement(key), oneElement("/good"))}
		deltas[name+" key in a tombstone"] = &pb.Delta{Priority: 1, Elements: oneElement("/good"), Tombstones: []*pb.Element{{Key: key, Id: testID(1).dsKey()}}}
	}
	return deltas
}

// What one element lacks must not cost the others, nor the history that honest
// peers have built on their block.
func TestVoidElementsAreLeftOutAlone(t *testing.T) {
	for name, d := range voidDeltas() {
		t.Run(name, func(t *testing.T) {
			log := &warnings{}
			net := newTestNet()
			store := newAtomicStore()
			plantNeighbours(t, store)
			r := net.newReplicaOn(t, store, silent, func(o *Options) { o.Logger = log.instead(o.Logger) })
			peer := net.node()
			bad := r.offer(peer, d)
			top := r.offer(peer, &pb.Delta{Priority: 2, Elements: []*pb.Element{{Key: "/above", Value: []byte("v")}}}, bad)
			waitFor(t, "the block above to be a head", func() bool { _, ok := r.Heads().Get(ctx, top); return ok })
			if got := fmt.Sprint(r.pairs()); got != "map[/above:v /good:evil]" {
				t.Errorf("the pairs are %s", got)
			}
			r.put("/mine", "v")
			if n := r.InternalStats(ctx).VoidElements; n != 1 {
				t.Errorf("%d elements were left out", n)
			}
			r.must(r.Close())
			if len(log.lines) != 1 || !strings.Contains(log.lines[0], bad.String()) {
				t.Errorf("the log has %q", log.lines)
			}
			checkNeighbours(t, store)
		})
	}
}

// A delta of which peers would leave something out is the caller's fault.
func TestOwnVoidElementsAreErrors(t *testing.T) {
	r := newTestNet().newReplica(t)
	for name, d := range voidDeltas() {
		own := newPBDelta()
		own.SetElements(d.Elements)
		own.SetTombstones(d.Tombstones)
		_, err := r.Publish(ctx, own)
		if !errors.Is(err, ErrInvalidBlock) || !errors.Is(err, ErrInvalidKey) {
			t.Errorf("Publish, %s: %v", name, err)
		}
		own.SetPriority(1)
		if err := r.Set().Merge(ctx, own, testID(1).dsKey()); !errors.Is(err, ErrInvalidBlock) || !errors.Is(err, ErrInvalidKey) {
			t.Errorf("Merge, %s: %v", name, err)
		}
	}
	if n := r.InternalStats(ctx).VoidElements; n > 0 || len(r.pairs()) > 0 {
		t.Errorf("%d elements were left out, the pairs are %v", n, r.pairs())
	}
}

// The elements of a user's delta are the user's.
func TestElementsAreNotChangedInPlace(t *testing.T) {
	net := newTestNet()
	r, other := net.newReplica(t), net.newReplica(t)
	mine := &pb.Element{Key: "u//v", Value: []byte("1")}
	d := newPBDelta()
	d.SetElements([]*pb.Element{{Key: "/a"}, mine})
	_, err := r.Publish(ctx, d)
	r.must(err)
	if mine.Key != "u//v" {
		t.Errorf("the caller's element has the key %q", mine.Key)
	}
	want := map[string]string{"/a": "", "/u/v": "1"}
	if got := converge(t, r, other); !maps.Equal(got, want) {
		t.Errorf("the pairs are %v", got)
	}
}

// A custom delta can hold what no protobuf can.
func TestVoidElementsOfCustomDeltas(t *testing.T) {
	net := newTestNet()
	r := &replica{t: t, store: newAtomicStore(), node: net.node(), opts: testOptions()}
	silent(r.opts)
	internal := &MerkleCRDTOptions{DeltaFactory: func() Delta { return oddDelta{newPBDelta()} }}
	m, err := NewMerkleCRDT(r.store, testNamespace, r.node, r.node, r.opts, internal)
	r.must(err)
	defer m.Close()
	r.MerkleCRDT = m
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: 1, Elements: oneElement("/k")}))
	if got := r.pairs(); len(got) > 0 {
		t.Errorf("the pairs are %v", got)
	}
	if n := r.InternalStats(ctx).VoidElements; n != 2 {
		t.Errorf("%d elements were left out", n)
	}
	if _, err := r.Publish(ctx, oddDelta{newPBDelta()}); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("Publish: %v", err)
	}
}

// An oddDelta has elements of its own.
type oddDelta struct{ Delta }

func (d oddDelta) GetElements() ([]*pb.Element, error) {
	return []*pb.Element{nil, {Key: "/\xff", Value: []byte("v")}}, nil
}

func TestDeltaWithAKeyTwice(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for i, values := range [][]string{{"x", "z", "y"}, {"3", "1"}} {
		d := newPBDelta()
		var elements []*pb.Element
		for _, v := range values {
			elements = append(elements, &pb.Element{Key: fmt.Sprintf("/%d", i), Value: []byte(v)})
		}
		d.SetElements(elements)
		_, err := a.Publish(ctx, d)
		a.must(err)
	}
	if got := converge(t, a, b); got["/0"] != "z" || got["/1"] != "3" {
		t.Errorf("pairs: %v", got)
	}
}

func TestCustomDelta(t *testing.T) {
	net := newTestNet()
	node := net.node()
	m, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, node, testOptions(), &MerkleCRDTOptions{
		DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} },
		Namespaces:   InternalNamespaces{Heads: "tops", Set: "pairs"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d, err := m.Set().Add(ctx, "/k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	d.(*labelled).label = 'L'
	h, err := m.Publish(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Get(ctx, h.Cid)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.blocks.parse(blockID(h.Cid.Hash()[2:]), n.RawData())
	if err != nil || len(b.delta.elements) != 1 {
		t.Errorf("the block does not read back: %v", err)
	}
	if err := m.Put(ctx, ds.NewKey("/plain"), []byte("v")); err != nil {
		t.Errorf("Put beside custom deltas: %v", err)
	}
	if _, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, nil, nil, &MerkleCRDTOptions{Namespaces: InternalNamespaces{Heads: "q"}}); err == nil {
		t.Error("a namespace that is taken was accepted")
	}
}

// labelled is a delta of an application: one byte more than the default.
type labelled struct {
	*pbDelta
	label byte
}

func (l *labelled) Marshal() ([]byte, error) {
	b, err := l.pbDelta.Marshal()
	return append([]byte{l.label}, b...), err
}

func (l *labelled) Unmarshal(b []byte) error {
	if len(b) == 0 {
		return errors.New("no label")
	}
	l.label = b[0]
	return l.pbDelta.Unmarshal(b[1:])
}

func TestPutWithACustomDeltaReplicates(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for _, r := range []*replica{a, b} {
		r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} }})
	}
	a.put("/k", "v")
	waitFor(t, "the pair", func() bool { return b.get("/k") == "v" })
}

func TestTombstoneOfAnIDThatIsWrittenOddlyRemovesNothing(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.put("/k", "v")
	id, err := blockIDOf(r.head())
	r.must(err)
	name := id.dsKey()
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", name[len(name)-1])
	var odd []*pb.Element
	for _, s := range []string{name + "\n", name[:9] + "\r\n" + name[9:], name[:len(name)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[last+1]), name + "A", strings.ToLower(name)} {
		odd = append(odd, &pb.Element{Key: "/k", Id: s})
	}
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Tombstones: odd}))
	if got := r.get("/k"); got != "v" {
		t.Errorf("/k is %q", got)
	}
}

// Checkpoints that nobody could make must not be asked for in vain.
func TestCheckpointEveryNeedsTheDefaultDelta(t *testing.T) {
	opts := testOptions()
	opts.CheckpointEvery = 5
	node := newTestNet().node()
	_, err := NewMerkleCRDT(newAtomicStore(), testNamespace, node, node, opts, &MerkleCRDTOptions{
		DeltaFactory: func() Delta { return &labelled{pbDelta: &pbDelta{}} },
	})
	if !errors.Is(err, errOwnDeltas) {
		t.Errorf("it opens: %v", err)
	}
}
