package crdt

import (
	"errors"
	"fmt"
	"net/url"
	"path"
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

func TestKeysThatLookLikeRows(t *testing.T) {
	r := newTestNet().newReplica(t)
	for _, k := range []string{"/a", "/a/v", "/a/p", "/s/k", "/s/r/a", "/h", "/crdt_version", "/a%2Fb", "/%"} {
		r.put(k, "1"+k)
		r.put(k, k)
	}
	r.del("/a")
	for k, v := range r.pairs() {
		if k != v {
			t.Errorf("%s is %s", k, v)
		}
	}
	if n := len(r.pairs()); n != 8 {
		t.Errorf("%d pairs, want 8", n)
	}
}

func TestLongDAGNamesAreRefused(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	longest := strings.Repeat("n", 255)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, DagName: longest, Elements: oneElement("/k")}))
	long := r.offer(liar, &pb.Delta{Priority: 1, DagName: longest + "n", Elements: oneElement("/k")})
	waitFor(t, "the block to be refused", func() bool { return r.state(long) == refused })
	d, err := r.Set().Add(ctx, "/k", nil)
	r.must(err)
	d.SetDagName(longest + "n")
	if _, err := r.Publish(ctx, d); !errors.Is(err, ErrInvalidBlock) {
		t.Errorf("Publish: %v", err)
	}
}

// A namespace may be any bytes, also where each commit needs a redo row.
func TestNamespaceThatIsNotUTF8(t *testing.T) {
	store := plainStore{newAtomicStore()}
	namespace := ds.NewKey("/\xff")
	d, err := New(store, namespace, newTestNet().node(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(ctx, ds.NewKey("/k"), []byte("v")); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	// A commit that was cut off.
	cutOff := []row{{key: d.store.keys.record("/k"), remove: true}}
	if err := store.Put(ctx, d.store.keys.redo, encodeRedo(cutOff)); err != nil {
		t.Fatal(err)
	}
	d, err = New(store, namespace, newTestNet().node(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if found, err := d.Has(ctx, ds.NewKey("/k")); found || err != nil {
		t.Errorf("the redo row was not applied: %v", err)
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
	heads, _, err := h.store.loadTips(ctx)
	if err != nil || len(heads) != 1 || heads[id] != v {
		t.Errorf("a head of DAG %q is stored as %q and loaded as %v: %v", name, h.store.keys.head(id, v), heads, err)
	}
}
