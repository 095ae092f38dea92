package crdt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// ourStores are stores of ours with a bit of everything that Downgrade has to
// do with, and the old ones as they are once they have been migrated.
func ourStores(t *testing.T) []*oldStore {
	t.Helper()
	stores := []*oldStore{variedStore(t), gappyStore(t), claimedStore(t), coveredStore(t)}
	for _, o := range writtenStores(t) {
		if len(o.Missing) > 0 {
			continue
		}
		r := o.open(t, newAtomicStore())
		r.waitUntilClean()
		stores = append(stores, r.capture(o.name))
	}
	return stores
}

// variedStore has overwrites, deletes, a batch, versions of two writers, and a
// named DAG.
func variedStore(t *testing.T) *oldStore {
	t.Helper()
	net := newTestNet()
	r, other := net.newReplica(t), net.newReplica(t)
	r.put("/base", "1")
	converge(t, r, other)
	net.split(0, 1)
	for i, w := range []*replica{r, other} {
		w.put("/both", fmt.Sprint(i))
		w.put("/base", fmt.Sprint(i))
		w.put("/a/v", "v")
	}
	r.del("/base")
	net.heal()
	converge(t, r, other)
	other.must(other.Close())
	b, err := r.Batch(ctx)
	r.must(err)
	r.must(b.Put(ctx, ds.NewKey("/batch"), []byte("1")))
	r.must(b.Delete(ctx, ds.NewKey("/a/v")))
	r.must(b.Commit(ctx))
	d, err := r.Set().Add(ctx, "/named", []byte("v"))
	r.must(err)
	d.SetDagName("dag1")
	_, err = r.Publish(ctx, d)
	r.must(err)
	return r.capture("varied")
}

// gappyStore has merged a block whose history is not there, and refused one.
func gappyStore(t *testing.T) *oldStore {
	t.Helper()
	net := newTestNet()
	r, liar := net.newReplica(t, silent), net.node()
	r.put("/k", "v")
	missing := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/missing")}))
	liar.lose(missing)
	above := r.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement("/above a gap")}, missing)
	r.awaitMerged(above)
	refused := r.offer(liar, &pb.Delta{DagName: "..", Elements: oneElement("/refused")})
	waitFor(t, "a refusal", func() bool { return r.state(refused) == markState(3) })
	return r.capture("gappy")
}

// claimedStore has what a summary claims about a block that is not here.
func claimedStore(t *testing.T) *oldStore {
	t.Helper()
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	r.awaitMerged(r.offer(r.node.net.node(), &pb.Delta{Priority: 2, Snapshot: true, Elements: []*pb.Element{
		claimOn(unavailable(1), "/k", "claimed", 1), claimOn(unavailable(1), "/claimed", "v", 1),
	}}, r.head(), unavailable(2)))
	return r.capture("claimed")
}

// coveredStore holds a checkpoint, has seen one, and has segments that none uses.
func coveredStore(t *testing.T) *oldStore {
	t.Helper()
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	r.hold(1)
	head := r.head()
	r.hold(0, idsOf(t, head)...)
	r.awaitMerged(r.offer(r.node.net.node(), checkpointDelta(2), head))
	return r.capture("covered")
}

func (n *testNode) lose(c cid.Cid) { delete(n.blocks, c) }

func (c *cutTest) downgrade(store ds.Batching, writes int) error {
	s := c.mortal(store, writes)
	return Downgrade(ctx, s, testNamespace, c.node)
}

// pairsIn returns the pairs that the rows of format 1 amount to.
func pairsIn(rows map[string]string) map[string]string {
	pairs := make(map[string]string)
	for row, value := range rows {
		key, ok := strings.CutPrefix(row, "/crdt/s/k")
		if key, isValue := strings.CutSuffix(key, "/v"); ok && isValue && rows["/crdt/s/k"+key+"/p"] != "" {
			pairs[key] = value
		}
	}
	return pairs
}

func TestDowngradeMakesFormat1(t *testing.T) {
	for _, o := range ourStores(t) {
		t.Run(o.name, func(t *testing.T) {
			c := newCutTest(t, o, false)
			want, store := pairsOfRecords(t, c.want), c.fresh()
			if err := c.downgrade(store, -1); err != nil {
				t.Fatal(err)
			}
			rows := dump(t, store)
			if got := pairsIn(rows); !maps.Equal(got, want) {
				t.Errorf("the old rows have\n%v, want\n%v", got, want)
			}
			checkFormat1(t, rows)
			if err := c.open(store, -1); err != nil {
				t.Fatal(err)
			}
			if got := pairsOfRecords(t, dump(t, store)); !maps.Equal(got, want) {
				t.Errorf("opened again it has\n%v, want\n%v", got, want)
			}
		})
	}
}

func pairsOfRecords(t *testing.T, rows map[string]string) map[string]string {
	t.Helper()
	pairs := make(map[string]string)
	for row, value := range rows {
		if key, ok := strings.CutPrefix(row, "/crdt/s/r"); ok {
			v, err := recordValue([]byte(value))
			if err != nil {
				t.Fatal(err)
			}
			pairs[key] = string(v)
		}
	}
	return pairs
}

// checkFormat1 checks that all rows are such as the old module has, or passes by.
func checkFormat1(t *testing.T, rows map[string]string) {
	t.Helper()
	if got := rows["/crdt/crdt_version"]; got != string(binary.AppendUvarint(nil, 2)) {
		t.Errorf("the version row is %x", got)
	}
	for row, value := range rows {
		kind := strings.Split(row, "/")[2]
		if kind == "b" && value != "" || slices.Contains([]string{"q", "p", "r", "w", "bs"}, kind) ||
			strings.HasPrefix(row, "/crdt/s/r/") || strings.HasPrefix(row, "/crdt/s/l/") && value == "" {
			t.Errorf("row %s = %x is left", row, value)
		}
	}
}

func TestDowngradeMayBeCutOffAtAnyWrite(t *testing.T) {
	large := newCutTest(t, synthesize(t, 5000, 10), false)
	many := &oldStore{name: "many rows", Blocks: large.old.Blocks}
	for row, value := range large.want {
		many.Rows = append(many.Rows, oldRow{row[len("/crdt"):], []byte(value)})
	}
	for _, o := range append(ourStores(t), many) {
		for _, plain := range []bool{false, true} {
			if plain && o == many {
				continue
			}
			t.Run(fmt.Sprintf("%s/plain=%v", o.name, plain), func(t *testing.T) {
				t.Parallel()
				newCutTest(t, o, plain).cutDowngradeEverywhere()
			})
		}
	}
}

// cutDowngradeEverywhere cuts the downgrade off at each of its writes, and has it
// finished, or the store opened by New instead, and then again downgraded.
func (c *cutTest) cutDowngradeEverywhere() {
	t := c.t
	t.Helper()
	pairs, whole := pairsOfRecords(t, c.want), c.fresh()
	if err := c.downgrade(whole, -1); err != nil {
		t.Fatal(err)
	}
	want := dump(t, whole)
	for n := 0; !t.Failed(); n++ {
		for _, reopen := range []bool{false, true} {
			store := c.fresh()
			err := c.downgrade(store, n)
			if err == nil {
				return
			}
			if !errors.Is(err, errDied) {
				t.Fatalf("write %d: %s", n+1, err)
			}
			if reopen {
				if err := c.open(store, -1); err != nil {
					t.Fatalf("cut off at write %d, New: %s", n+1, err)
				}
				if got := pairsOfRecords(t, dump(t, store)); !maps.Equal(got, pairs) {
					t.Errorf("cut off at write %d, New shows\n%v, want\n%v", n+1, got, pairs)
				}
			}
			if err := c.downgrade(store, -1); err != nil {
				t.Fatalf("cut off at write %d, then: %s", n+1, err)
			}
			got := dump(t, store)
			if !maps.Equal(pairsIn(got), pairs) || !reopen && !maps.Equal(got, want) {
				t.Errorf("cut off at write %d, another store came of it\n%s", n+1, diff(got, want))
			}
		}
	}
}

// The old module does not know what is missing, and finds it by a repair.
func TestDowngradeOfAStoreWithGapsIsDirty(t *testing.T) {
	c := newCutTest(t, gappyStore(t), false)
	store := c.fresh()
	if err := c.downgrade(store, -1); err != nil {
		t.Fatal(err)
	}
	rows := dump(t, store)
	if _, dirty := rows["/crdt/d"]; !dirty {
		t.Error("no repair is due")
	}
	heads := slices.DeleteFunc(slices.Collect(maps.Keys(rows)), func(row string) bool { return !strings.HasPrefix(row, "/crdt/h/") })
	if len(heads) != 2 {
		t.Errorf("the heads are %v, want the old one and the root", heads)
	}
}

func TestDowngradeRefuses(t *testing.T) {
	ours := variedStore(t)
	for name, test := range map[string]struct {
		store *oldStore
		says  string
	}{
		"an open store":    {ours.with("/bs"), "close it first"},
		"a newer format":   {ours.with("/crdt_version", 0x85), "newer"},
		"covers":           {ours.with("/crdt_version", 0x84), "no way back"},
		"no store":         {&oldStore{name: "nothing"}, "no store below /crdt"},
		"a malformed row":  {ours.with("/crdt_version", 0x80), "/crdt/crdt_version"},
		"nothing of old":   {writtenStore(t, "old-v1-joined"), ""},
		"nothing of older": {writtenStore(t, "old-v0-wrong-winners"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cutTest{t: t, old: test.store, node: newTestNet().node()}
			store := c.fresh()
			before := dump(t, store)
			err := c.downgrade(store, -1)
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("it says %v, want %q", err, test.says)
			}
			if after := dump(t, store); !maps.Equal(before, after) {
				t.Errorf("the store was changed\n%s", diff(after, before))
			}
		})
	}
}
