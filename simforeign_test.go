package crdt

import (
	"fmt"
	"slices"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A foreignWriter is a peer that makes valid blocks as another program might:
// without skip links, on top of any blocks, at heights that others have as well,
// with a key twice in a delta, or with tombstones of versions that nobody has
// heard of yet.
type foreignWriter struct {
	s      *simulation
	node   *testNode
	blocks []*block // all that it has made
}

// write makes some blocks and announces some of those that it has made.
func (f *foreignWriter) write() {
	rng := f.s.rng
	for range 1 + rng.IntN(4) {
		f.make()
	}
	for range 1 + rng.IntN(3) {
		_ = f.node.Broadcast(ctx, announcement(pick(rng, f.blocks...).id.Cid()))
	}
	if rng.IntN(3) == 0 {
		f.announceTips()
	}
}

// announceTips announces the blocks that nothing of its own builds on.
func (f *foreignWriter) announceTips() {
	below := make(map[blockID]bool)
	for _, b := range f.blocks {
		for _, link := range b.links {
			below[link] = true
		}
	}
	var tips []cid.Cid
	for _, b := range f.blocks {
		if !below[b.id] {
			tips = append(tips, b.id.Cid())
		}
	}
	_ = f.node.Broadcast(ctx, announcement(tips...))
}

func (f *foreignWriter) make() {
	rng := f.s.rng
	d := &pb.Delta{DagName: pick(rng, f.s.dags...), Priority: 1}
	var links []cid.Cid
	for _, b := range f.below(d.DagName) {
		links = append(links, b.id.Cid())
		d.Priority = max(d.Priority, b.delta.priority+1)
	}
	if f.s.snapshots && len(f.blocks) > 0 && rng.IntN(15) == 0 { // perhaps into another DAG, as old releases do
		links = append(links, pick(rng, f.blocks...).id.Cid())
	}
	if rng.IntN(10) == 0 {
		d.Priority = pick(rng, 1, 2, 50, d.Priority+1000, pick(rng, oddPriorities...))
	}
	for range rng.IntN(4) {
		d.Elements = append(d.Elements, &pb.Element{Key: f.spell(f.s.key()), Value: []byte(f.s.value())})
	}
	for range rng.IntN(3) {
		d.Tombstones = append(d.Tombstones, f.tombstone())
	}
	c := f.node.forge(f.s.t, marshalDelta(f.s.t, d), links...)
	id, err := blockIDOf(c)
	if err != nil {
		panic(err)
	}
	b := f.s.block(id)
	if !slices.ContainsFunc(f.blocks, func(old *block) bool { return old.id == b.id }) {
		f.blocks = append(f.blocks, b)
	}
}

// below chooses up to three blocks of a DAG to build on: its own, or heads of a
// replica.
func (f *foreignWriter) below(dagName string) (chosen []*block) {
	var known []*block
	for _, b := range f.blocks {
		if b.delta.dagName == dagName {
			known = append(known, b)
		}
	}
	f.s.someUp(func(r *simReplica) {
		heads, _ := r.frontier.tips()
		for _, id := range heads.of(dagName) {
			known = append(known, f.s.block(id))
		}
	})
	for range min(f.s.rng.IntN(4), len(known)) {
		chosen = append(chosen, pick(f.s.rng, known...))
	}
	return chosen
}

// spell writes a key as a peer may that does not clean its keys, or, at times, one
// that can hold no value.
func (f *foreignWriter) spell(key string) string {
	switch f.s.rng.IntN(10) {
	case 0:
		return pick(f.s.rng, "/x/.."+key, key[1:], key+"/", "//"+key, "/.."+key)
	case 1:
		return pick(f.s.rng, "/", "", key+"/../../../..")
	}
	return key
}

// tombstone removes some version, which may be one that has not been announced
// yet, or none at all.
func (f *foreignWriter) tombstone() *pb.Element {
	rng := f.s.rng
	if len(f.blocks) > 0 && rng.IntN(8) > 0 {
		b := pick(rng, f.blocks...)
		if len(b.delta.elements) > 0 {
			return &pb.Element{Key: f.spell(pick(rng, b.delta.elements...).GetKey()), Id: b.id.dsKey()}
		}
	}
	return &pb.Element{Key: f.s.key(), Id: pick(rng, "", "/x", fmt.Sprint("/", f.s.key()), testID(3).dsKey())}
}
