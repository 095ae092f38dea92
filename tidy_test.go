package crdt

import (
	"fmt"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// tidied returns how many blocks it took to tidy a DAG, and how many tombstones.
func (r *replica) tidied(dagName string) (blocks, tombstones int) {
	r.t.Helper()
	before := len(r.node.own)
	r.must(r.checkpointer.tidy(ctx, dagName))
	for _, c := range r.node.own[before:] {
		b, err := r.Datastore.blocks.getMerged(ctx, blockID(c.Hash()[2:]))
		r.must(err)
		if len(b.delta.elements) > 0 || b.delta.dagName != dagName {
			r.t.Errorf("tidying made the block %+v", b.delta)
		}
		tombstones += len(b.delta.tombstones)
	}
	return len(r.node.own) - before, tombstones
}

func TestTidyingRemovesLosers(t *testing.T) {
	net := newTestNet()
	var here, there toldHooks
	r, peer := net.newReplica(t, here.set), net.newReplica(t, there.set)
	keys := []string{"/k", "/k/below", "/100%25", "/a b/ü", "/" + strings.Repeat("x", 300)}
	for i := range 10 {
		for _, key := range keys {
			r.put(key, fmt.Sprint(i))
		}
	}
	want := converge(t, r, peer)
	waitFor(t, "the hooks", func() bool { return strings.Count(there.all(), "=9") == len(keys) })
	toldHere, toldThere := here.all(), there.all()
	if blocks, n := r.tidied(""); blocks != 1 || n != 9*len(keys) {
		t.Errorf("%d tombstones in %d blocks", n, blocks)
	}
	if got := converge(t, r, peer); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("they hold %v, and held %v", got, want)
	}
	for _, x := range []*replica{r, peer} {
		if n := len(x.rowsUnder("/s/l")) + len(x.rowsUnder("/s/t")); n != 0 {
			t.Errorf("%d losers and tombstones are left", n)
		}
	}
	if blocks, _ := r.tidied(""); blocks != 0 {
		t.Errorf("tidying again made %d blocks", blocks)
	}
	if here.all() != toldHere || there.all() != toldThere {
		t.Errorf("tidying told hooks of something: %s, %s", here.all(), there.all())
	}
}

// However many there are, they go in small portions.
func TestTidyingMakesSmallBlocks(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.MaxBatchDeltaSize = 2000 })
	for round := range 4 {
		b, err := r.Batch(ctx)
		r.must(err)
		for i := range 50 {
			r.must(b.Put(ctx, ds.NewKey(fmt.Sprint("/", i)), []byte(fmt.Sprint(round))))
		}
		r.must(b.Commit(ctx))
	}
	before := len(r.node.own)
	if blocks, n := r.tidied(""); n != 150 || blocks < 5 || blocks > 8 {
		t.Errorf("%d tombstones in %d blocks", n, blocks)
	}
	for _, c := range r.node.own[before:] {
		if n := len(r.node.blocks[c]); n > 2000+frameSize+2*linkSize {
			t.Errorf("a block of %d bytes", n)
		}
	}
}

// Losers of other DAGs are theirs to remove. Of which DAG a loser is, its block says.
func TestTidyingOfOneDAG(t *testing.T) {
	r := newTestNet().newReplica(t)
	for i := range 5 {
		r.put("/both", fmt.Sprint(i))
		r.publishIn("d", "/both", fmt.Sprint(i))
		r.publishIn("d", "/named", fmt.Sprint(i))
	}
	r.put("/both", "last")
	if _, n := r.tidied(""); n != 5 {
		t.Errorf("%d tombstones in the unnamed DAG", n)
	}
	if _, n := r.tidied("d"); n != 5+4 {
		t.Errorf("%d tombstones in the other", n)
	}
	if n := len(r.rowsUnder("/s/l")); n != 0 || r.get("/both") != "last" || r.get("/named") != "4" {
		t.Errorf("%d losers are left, of %s and %s", n, r.get("/both"), r.get("/named"))
	}
}

// What is found is looked at again by the commit that removes it.
func TestTidyingLooksAgain(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	var versions []versionName
	for _, key := range []string{"/wins", "/gone", "/lost"} {
		for i := range 2 {
			r.put(key, fmt.Sprint(i))
			versions = append(versions, versionName{key, blockID(r.head().Hash()[2:])})
		}
	}
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: 99, Tombstones: []*pb.Element{{Key: "/wins", Id: versions[1].id.dsKey()}}}, r.head()))
	r.del("/gone")
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: 99, Elements: oneElement("/lost")}, unavailable(1)))
	pending := r.rowsUnder("/r")
	if len(pending) != 1 {
		t.Fatalf("%d pending heads", len(pending))
	}
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: 100, Elements: oneElement("/lost")}, r.head()))
	_, id, _ := splitID(pending[0].Key)
	tidy := newTidier(r.committer, "", 1<<20)
	for _, n := range append(versions, versionName{"/lost", id}, versionName{"/never", testID(1)}) {
		r.must(tidy.consider(ctx, n))
	}
	before := len(r.node.own)
	r.must(tidy.flush(ctx))
	b, err := r.Datastore.blocks.getMerged(ctx, blockID(r.node.own[before].Hash()[2:]))
	r.must(err)
	if got := b.delta.tombstones; len(got) != 2 || got[0].GetKey() != "/lost" || got[1].GetKey() != "/lost" {
		t.Errorf("removed were %v", got)
	}
	if got := fmt.Sprint(r.pairs()); got != "map[/lost:evil /wins:0]" {
		t.Errorf("the pairs are %s", got)
	}
}

func TestTidyingWithoutLosersReadsNothing(t *testing.T) {
	store := newFaultyStore()
	r := newTestNet().newReplicaOn(t, store, func(o *Options) { o.RebroadcastInterval = 1 << 40 })
	for i := range 100 {
		r.put(fmt.Sprint("/", i), "v")
	}
	waitFor(t, "it to read nothing, once what a start reads has been read", func() bool {
		before := store.reads.Load() + store.writes.Load()
		if blocks, _ := r.tidied(""); blocks != 0 {
			t.Errorf("%d blocks", blocks)
		}
		return store.reads.Load()+store.writes.Load()-before <= 1 // the end of the query
	})
}
