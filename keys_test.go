package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
)

// endlessKey is too long by one byte.
var endlessKey = "/" + strings.Repeat("x", MaxKeyLength)

func TestKeysOfCallersAreCleaned(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.must(r.Put(ctx, ds.RawKey("/u//v"), []byte("1")))
	b, err := r.Batch(ctx)
	r.must(err)
	r.must(b.Put(ctx, ds.RawKey("/u/./w"), []byte("2")))
	r.must(b.Put(ctx, ds.RawKey("/../gone"), []byte("3")))
	r.must(b.Delete(ctx, ds.RawKey("/x/../gone")))
	r.must(b.Commit(ctx))
	if got := fmt.Sprint(r.pairs()); got != "map[/u/v:1 /u/w:2]" {
		t.Errorf("the pairs are %s", got)
	}
	odd := ds.RawKey("/a/..//u/v")
	value, err := r.Get(ctx, odd)
	has, hasErr := r.Has(ctx, odd)
	size, sizeErr := r.GetSize(ctx, odd)
	if err := errors.Join(err, hasErr, sizeErr); err != nil || string(value) != "1" || !has || size != 1 {
		t.Errorf("%s has %q, %v, of %d bytes: %v", odd, value, has, size, err)
	}
	res, err := r.Query(ctx, query.Query{Prefix: "u//"})
	r.must(err)
	if all, err := res.Rest(); len(all) != 2 || err != nil {
		t.Errorf("below u// there is %v: %v", all, err)
	}
	r.must(r.Delete(ctx, odd))
	if got := r.get("/u/v"); got != "(none)" {
		t.Errorf("/u/v is %q", got)
	}
}

func TestKeysThatCanHoldNoValueAreRefused(t *testing.T) {
	r := newTestNet().newReplica(t)
	b, err := r.Batch(ctx)
	r.must(err)
	for _, k := range []ds.Key{ds.NewKey("/"), {}, ds.RawKey("/a/../.."), ds.NewKey("/\xff"), ds.NewKey(endlessKey)} {
		for call, err := range map[string]error{
			"Put":          r.Put(ctx, k, nil),
			"Delete":       r.Delete(ctx, k),
			"batch.Put":    b.Put(ctx, k, nil),
			"batch.Delete": b.Delete(ctx, k),
		} {
			if !errors.Is(err, ErrInvalidKey) {
				t.Errorf("%s %.20q: %v", call, k.String(), err)
			}
		}
		if _, err := r.Get(ctx, k); !errors.Is(err, ds.ErrNotFound) {
			t.Errorf("Get %.20q: %v", k.String(), err)
		}
	}
}

// Old peers put keys as their callers made them, and clean those of others.
func TestKeysOfPeersAreCleaned(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	peer := net.node()
	first := r.offer(peer, &pb.Delta{Priority: 1, Elements: []*pb.Element{
		{Key: "u//v", Value: []byte("1")}, {Key: "/../w/", Value: []byte("low")}, {Key: "/w", Value: []byte("high")}, {Key: "w", Value: []byte("less")}, {Key: "/x", Value: []byte("1")},
	}})
	r.awaitMerged(first)
	if got := fmt.Sprint(r.pairs()); got != "map[/u/v:1 /w:low /x:1]" {
		t.Errorf("the pairs are %s", got)
	}
	second := r.offer(peer, &pb.Delta{Priority: 2, Tombstones: []*pb.Element{tombstoneOf(t, "/w/.", first), tombstoneOf(t, "x", first)}}, first)
	r.awaitMerged(second)
	if got := fmt.Sprint(r.pairs()); got != "map[/u/v:1]" || r.head() != second {
		t.Errorf("after the removal the pairs are %s, the head is %s", got, r.head())
	}
	if n := r.InternalStats(ctx).VoidElements; n > 0 {
		t.Errorf("%d elements were left out", n)
	}
}

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

// CheckDelta judges keys. It must see those that are merged.
func TestCheckDeltaSeesCleanKeys(t *testing.T) {
	for _, key := range []string{"/x/../forbidden/k", "forbidden/k", "/forbidden//k"} {
		net := newTestNet()
		r := net.newReplica(t, forbid)
		bad := r.offer(net.node(), &pb.Delta{Priority: 1, Elements: oneElement(key)})
		waitFor(t, "the block to be judged", func() bool { return r.state(bad) != unknown })
		if state := r.state(bad); state != refused {
			t.Errorf("%s: the mark is %d, the pairs are %v", key, state, r.pairs())
		}
		if err := r.Put(ctx, ds.RawKey("/x/../forbidden/k"), nil); !errors.Is(err, errForbidden) {
			t.Errorf("Put: %v", err)
		}
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
