package crdt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// A foldWorld is a history in a DAG service, all of it complete in a store, and some of
// its checkpoints held.
type foldWorld struct {
	*checkpointer
	t      *testing.T
	rng    *rand.Rand
	node   *testNode
	blocks []*block
	at     map[blockID]*block
	known  checkpoints
}

// An offlineNode knows that what it does not have is nowhere.
type offlineNode struct{ *testNode }

func (n offlineNode) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if id, _ := blockIDIn(c.Hash()); n.raw(id) == nil && c.Type() == cid.DagProtobuf {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return n.testNode.Get(ctx, c)
}

func newFoldWorld(t *testing.T, seed uint64) *foldWorld {
	keys := newKeyspace(ds.NewKey("/n"), InternalNamespaces{"h", "a", "s", "b", "d", "bs", "v"})
	store, err := newRowStore(ctx, newAtomicStore(), keys)
	if err != nil {
		t.Fatal(err)
	}
	opts := testOptions()
	node := newTestNet().node()
	blocks := &blockStore{service: offlineNode{node}, marks: store, newDelta: newPBDelta, newTag: randomTag, maxSize: opts.MaxBlockSize}
	notify := callbacks{reloaded: func() {}, published: func([]*block) {}, checkpointSeen: func() {}}
	c := newCommitter(store, blocks, &frontier{}, newHookQueue(opts), notify, opts.Logger)
	checkpointer := newCheckpointer(ctx, c, nil, nil, opts)
	checkpointer.chores.all = nil // tests do what is to be done
	return &foldWorld{
		checkpointer: checkpointer,
		t:            t,
		rng:          rand.New(rand.NewPCG(seed, 0)),
		node:         node,
		at:           make(map[blockID]*block),
		known:        make(checkpoints),
	}
}

func (w *foldWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// add makes a block that is complete.
func (w *foldWorld) add(d *pb.Delta, links []blockID) *block {
	w.t.Helper()
	var cids []cid.Cid
	for _, id := range links {
		cids = append(cids, id.Cid())
	}
	id, err := blockIDOf(w.node.forge(w.t, marshalDelta(w.t, d), cids...))
	w.must(err)
	if b := w.at[id]; b != nil {
		return b
	}
	b, err := w.checkpointer.blocks.getMerged(ctx, id)
	w.must(err)
	w.must(w.store.Put(ctx, w.store.keys.block(id), (&mark{state: complete}).encode()))
	w.blocks, w.at[id] = append(w.blocks, b), b
	return b
}

// some returns up to n blocks, mostly of a DAG, the late ones more often.
func (w *foldWorld) some(dagName string, n int) (ids []blockID) {
	for range n {
		if len(w.blocks) == 0 {
			return nil
		}
		i := max(w.rng.IntN(len(w.blocks)), w.rng.IntN(len(w.blocks)))
		if b := w.blocks[i]; !slices.Contains(ids, b.id) && (b.delta.dagName == dagName || w.rng.IntN(8) == 0) {
			ids = append(ids, b.id)
		}
	}
	return ids
}

// grow adds a block that puts and removes versions of a few keys.
func (w *foldWorld) grow() {
	d := &pb.Delta{DagName: pick(w.rng, "", "", "d"), Priority: uint64(w.rng.IntN(9)), Tag: []byte{byte(len(w.blocks))}}
	key := func() string { return fmt.Sprintf("/k%d", w.rng.IntN(4)) }
	for range w.rng.IntN(3) {
		d.Elements = append(d.Elements, &pb.Element{Key: key(), Value: []byte{byte('a' + w.rng.IntN(3))}})
	}
	for range w.rng.IntN(3) {
		id := "/nowhere"
		if len(w.blocks) > 0 && w.rng.IntN(9) > 0 {
			id = w.blocks[w.rng.IntN(len(w.blocks))].id.dsKey()
		}
		d.Tombstones = append(d.Tombstones, &pb.Element{Key: key(), Id: id})
	}
	w.add(d, w.some(d.DagName, 1+w.rng.IntN(3)))
}

// below returns some blocks and all below them, by links within their DAG.
func (w *foldWorld) below(dagName string, heads []blockID) map[blockID]bool {
	all, todo := make(map[blockID]bool), slices.Clone(heads)
	for len(todo) > 0 {
		b := w.at[todo[0]]
		if todo = todo[1:]; !all[b.id] && b.delta.dagName == dagName {
			all[b.id] = true
			todo = append(todo, b.links...)
		}
	}
	return all
}

// snapshot returns by brute force what a fold has to find.
func (w *foldWorld) snapshot(cover map[blockID]bool) treeRoot {
	blocks := make(map[blockID]*block)
	for id := range cover {
		blocks[id] = w.at[id]
	}
	b := newTreeBuilder(noPages{})
	for _, e := range entriesOf(blocks) {
		w.must(b.add(ctx, e))
	}
	root, err := b.finish(ctx)
	w.must(err)
	return root
}

// check compares a fold with brute force. It may fail where blocks are gone.
func (w *foldWorld) check(dagName string, heads []blockID, mayFail bool) *folded {
	w.t.Helper()
	f, err := w.fold(ctx, dagName, heads, w.checkpointer.blocks)
	if mayFail && errors.Is(err, errCannotFold) {
		return nil
	}
	w.must(err)
	cover := w.below(dagName, heads)
	if want := w.snapshot(cover); f.snapshot.tree() != want {
		w.t.Fatalf("the versions of %v are %v, want %v", heads, f.snapshot.tree(), want)
	}
	n := 0
	for _, seg := range f.segments {
		for id, err := range w.checkpointer.blocks.segmentIDs(ctx, seg) {
			w.must(err)
			n++
			if !slices.ContainsFunc(w.blocks, func(b *block) bool { return b.id.inCover() == id && cover[b.id] }) {
				w.t.Fatalf("%x is covered, and not below %v", id, heads)
			}
		}
	}
	if n != len(cover) || f.snapshot.blocks != uint64(n) {
		w.t.Fatalf("%d blocks are covered, %d as it says, want %d", n, f.snapshot.blocks, len(cover))
	}
	return f
}

// mine returns those of some blocks that are of a DAG.
func (w *foldWorld) mine(dagName string, ids []blockID) []blockID {
	return slices.DeleteFunc(ids, func(id blockID) bool { return w.at[id].delta.dagName != dagName })
}

// checkpoint makes a checkpoint of any blocks of a DAG, and mostly holds it.
func (w *foldWorld) checkpoint(mayFail bool) {
	dagName := pick(w.rng, "", "", "d")
	heads := w.mine(dagName, w.some(dagName, 1+w.rng.IntN(3)))
	if len(heads) == 0 {
		return
	}
	f := w.check(dagName, heads, mayFail)
	if f == nil {
		return
	}
	b := w.add(&pb.Delta{DagName: dagName, Priority: 9, Checkpoint: f.snapshot.message()}, heads)
	if w.rng.IntN(4) > 0 {
		w.hold(b.checkpoint(), f)
	}
}

func (w *foldWorld) hold(cp *checkpoint, f *folded) {
	_, err := w.stage(ctx, f.segments)
	w.must(err)
	w.must(w.committer.do(ctx, func(now *commit) error {
		now.hold(cp, f, nil)
		return nil
	}))
	w.known[cp.id] = cp
}

// drop removes a block that is covered from the DAG service, and mostly its mark.
func (w *foldWorld) drop() {
	if len(w.blocks) == 0 {
		return
	}
	b := w.blocks[w.rng.IntN(len(w.blocks))]
	held := w.committer.frontier.checkpoints().held().of(b.delta.dagName)
	in, err := w.store.inSegments(ctx, held.segments(), b.id)
	w.must(err)
	if !in {
		return
	}
	w.must(w.checkpointer.blocks.remove(ctx, b.id))
	if w.rng.IntN(4) > 0 {
		w.must(w.store.Delete(ctx, w.store.keys.block(b.id)))
	}
}

// tops returns the blocks of a DAG to which no block of it links.
func (w *foldWorld) tops(dagName string) []blockID {
	tops := make(map[blockID]bool)
	for _, b := range w.blocks {
		tops[b.id] = b.delta.dagName == dagName
	}
	for _, b := range w.blocks {
		for _, id := range b.links {
			if b.delta.dagName == dagName {
				tops[id] = false
			}
		}
	}
	ids := w.mine(dagName, nil)
	for id, top := range tops {
		if top {
			ids = append(ids, id)
		}
	}
	return ids
}

// What is folded is what the blocks say, whatever the snapshots are that it is made
// from: several, one beside the other, above heads or none.
func TestFoldIsAFunctionOfTheBlocks(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newFoldWorld(t, seed)
			drops := seed%3 == 0
			for range 40 {
				switch n := w.rng.IntN(10); {
				case n < 7:
					w.grow()
				case n < 9 || !drops:
					w.checkpoint(drops)
				default:
					w.drop()
				}
			}
			for _, dagName := range []string{"", "d"} {
				w.check(dagName, w.tops(dagName), false)
			}
		})
	}
}

// The larger part of a history is not in memory when it is folded.
func TestFoldTakesRunsFromAFile(t *testing.T) {
	w := newFoldWorld(t, 1)
	for range 300 {
		w.grow()
	}
	walk := newFoldWalk(w.store, w.checkpointer.blocks, nil, "", 0)
	walk.changes.limit = 1000
	defer walk.changes.close()
	w.must(walk.run(ctx, w.tops("")))
	root, err := walk.foldVersions(ctx, noPages{})
	w.must(err)
	if want := w.snapshot(w.below("", w.tops(""))); root != want || walk.changes.file == nil {
		t.Errorf("%v, want %v, with a file %v", root, want, walk.changes.file)
	}
}

func TestFoldNamesTheBlockInItsWay(t *testing.T) {
	stranded := (&mark{state: stranded}).encode()
	for name, spoil := range map[string]func(w *foldWorld, b *block){
		"gone":       func(w *foldWorld, b *block) { w.must(w.checkpointer.blocks.remove(ctx, b.id)) },
		"not merged": func(w *foldWorld, b *block) { w.must(w.store.Delete(ctx, w.store.keys.block(b.id))) },
		"refused": func(w *foldWorld, b *block) {
			w.must(w.store.Put(ctx, w.store.keys.block(b.id), []byte{byte(refused)}))
		},
		"stranded": func(w *foldWorld, b *block) { w.must(w.store.Put(ctx, w.store.keys.block(b.id), stranded)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newFoldWorld(t, 1)
			bad := w.add(&pb.Delta{Priority: 1, Elements: oneElement("/a")}, nil)
			top := w.add(&pb.Delta{Priority: 2}, []blockID{bad.id})
			spoil(w, bad)
			_, err := w.fold(ctx, "", []blockID{top.id}, noPages{})
			if !errors.Is(err, errCannotFold) || !strings.Contains(err.Error(), bad.id.Cid().String()) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("summary", func(t *testing.T) {
		w := newFoldWorld(t, 1)
		bad := w.add(&pb.Delta{Priority: 2, Snapshot: true}, nil)
		if _, err := w.fold(ctx, "", []blockID{bad.id}, noPages{}); !errors.Is(err, errIsSummary) || !errors.Is(err, errCannotFold) {
			t.Errorf("%v", err)
		}
	})
}

// Where a garbage collector has taken pages, the blocks say it all.
func TestFoldDoesWithoutPagesThatAreLost(t *testing.T) {
	w := newFoldWorld(t, 3)
	for range 20 {
		w.grow()
	}
	heads := w.tops("")
	f := w.check("", heads, false)
	c := w.add(&pb.Delta{Priority: 9, Checkpoint: f.snapshot.message()}, heads)
	w.hold(c.checkpoint(), f)
	top := w.add(&pb.Delta{Priority: 10, Elements: oneElement("/k1")}, []blockID{c.id})
	lose := func() {
		for n, err := range w.checkpointer.blocks.treePages(ctx, f.snapshot.tree()) {
			w.must(err)
			w.must(w.checkpointer.blocks.removePage(ctx, n))
		}
	}
	lose()
	w.check("", []blockID{top.id}, false)
	w.check("", heads, false) // it makes the lost ones again
	lose()
	w.must(w.checkpointer.blocks.remove(ctx, heads[0]))
	if _, err := w.fold(ctx, "", []blockID{top.id}, noPages{}); !errors.Is(err, errCannotFold) || !errors.Is(err, errNoPage) {
		t.Errorf("%v", err)
	}
}

func TestFoldEndsWithItsContext(t *testing.T) {
	w := newFoldWorld(t, 1)
	top := w.add(&pb.Delta{Priority: 1}, nil)
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := w.fold(ctx, "", []blockID{top.id}, noPages{}); !errors.Is(err, context.Canceled) || errors.Is(err, errCannotFold) {
		t.Errorf("%v", err)
	}
}
