package crdt

import (
	"fmt"
	"maps"
	"testing"

	"github.com/ipfs/go-ds-crdt/pb"
)

// visitedStore is a store of ours that the old module opened, while the version
// row still let it, and wrote to in its own format.
func visitedStore(t *testing.T) *oldStore {
	t.Helper()
	net := newTestNet()
	r, other := net.newReplica(t), net.newReplica(t)
	for i := range 3 {
		for _, key := range []string{"/ours", "/over", "/below", "/won by tombstone", "/all gone", "/a/v"} {
			r.put(key, fmt.Sprint("ours ", i))
		}
	}
	converge(t, r, other)
	other.must(other.Close())
	heads, _ := r.frontier.tips()
	w := newOldWriter(t)
	w.heads, w.height = heads.ids(), heads.maxHeight("")
	o := r.capture("visited")
	versions := o.model(t)

	w.write([]*pb.Element{{Key: "/theirs", Value: []byte("1")}, {Key: "/theirs, deleted", Value: []byte("1")}}, nil)
	w.write([]*pb.Element{{Key: "/theirs", Value: []byte("2")}, {Key: "/over", Value: []byte("theirs")}}, nil)
	gone := append(tombstonesFor("/theirs, deleted", []blockID{w.model.live("/theirs, deleted")[0].id}),
		tombstonesFor("/won by tombstone", []blockID{versions.live("/won by tombstone")[0].id})...)
	for _, v := range versions.live("/all gone") {
		gone = append(gone, tombstonesFor("/all gone", []blockID{v.id})...)
	}
	w.write(nil, gone)
	top := w.height
	w.height = 0
	w.write([]*pb.Element{{Key: "/below", Value: []byte("too low")}, {Key: "/theirs", Value: []byte("too low")}}, nil)
	w.height = top
	return o.joined(w.finish())
}

func TestRowsOfTheOldModuleAreMergedIntoOurStore(t *testing.T) {
	o := visitedStore(t)
	want := o.model(t).pairs()
	if want["/over"] != "theirs" || want["/below"] != "ours 2" || want["/theirs"] != "2" || want["/won by tombstone"] != "ours 1" || len(want) != 6 {
		t.Fatalf("the test is wrong: %v", want)
	}
	for name, o := range map[string]*oldStore{"as it was": o, "with our version row": o.with("/crdt_version", 0x83)} {
		t.Run(name, func(t *testing.T) {
			r := o.open(t, newAtomicStore(), func(opts *Options) { opts.RepairInterval = 0 })
			r.holds("opened,", want)
			checkMigrated(t, r)
			if !r.IsDirty(ctx) {
				t.Error("no repair is due")
			}
			r.must(r.Repair(ctx))
			r.del("/over")
			r.del("/theirs")
			left := maps.Clone(want)
			delete(left, "/over")
			delete(left, "/theirs")
			r.holds("after two deletes", left)
			r.restart()
			r.holds("after a restart", left)
		})
	}
}

// The old module deleted what we had, and put nothing.
func TestTombstonesOfTheOldModuleCountInOurStore(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/stays", "v")
	r.put("/gone", "v")
	w := newOldWriter(t)
	heads, _ := r.frontier.tips()
	w.heads, w.height = heads.ids(), 2
	o := r.capture("tombstones")
	w.write(nil, tombstonesFor("/gone", []blockID{o.model(t).live("/gone")[0].id}))
	o.joined(w.finish()).open(t, newAtomicStore()).holds("opened,", map[string]string{"/stays": "v"})
}

func TestMergingOldRowsMayBeCutOffAtAnyWrite(t *testing.T) {
	o := visitedStore(t)
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			t.Parallel()
			newCutTest(t, o, plain).cutEverywhere()
		})
	}
}
