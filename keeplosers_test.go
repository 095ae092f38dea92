package crdt

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/pb"
)

// haunt has a replica show a loser that its block does not have, and covers that block. A
// repair by hand can leave such rows, and so can the old module.
func (r *replica) haunt() (block blockID) {
	r.t.Helper()
	block = r.hauntIn("")
	r.put("/k", "winner")
	r.untidyCheckpoint()
	r.reopenWith(localDAG{r.node}, nil)
	return block
}

// hauntIn has a replica show a version that its block does not have, in a DAG.
func (r *replica) hauntIn(dag string) (block blockID) {
	r.t.Helper()
	block = idOf(r.publishIn(dag, "/other", "v").Cid)
	d := newPBDelta()
	d.SetPriority(1)
	d.SetElements([]*pb.Element{{Key: "/k", Value: []byte("ghost")}})
	r.must(r.Set().Merge(ctx, d, block.dsKey()))
	return block
}

// A loser without a value must not outlive its block: who removes the winner would look for
// it for ever.
func TestDropRemovesLosersThatTheirBlocksLack(t *testing.T) {
	for name, lose := range map[string]func(*replica, blockID){
		"the block is here": func(*replica, blockID) {},
		"the block is lost": func(r *replica, id blockID) { r.must(r.node.Remove(ctx, id.Cid())) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestNet().newReplica(t)
			lose(r, r.haunt())
			r.compact()
			r.must(r.tryRemoveWinner("/k"))
			if got := r.get("/k"); got != "(none)" {
				t.Errorf("Get: %q", got)
			}
			if rows := r.rowsUnder("/s/l"); len(rows) > 0 {
				t.Errorf("%d losers are left", len(rows))
			}
		})
	}
}

// The record of a key may stand for such losers alone, as one that was migrated.
func TestDropRemovesMigratedLosersThatTheirBlocksLack(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/other", "v")
	block := idOf(r.head())
	r.must(r.committer.do(ctx, func(c *commit) error {
		migrated := &record{version: version{priority: 1, value: []byte("ghost")}, losers: true, unresolved: true}
		c.rows = append(c.rows, row{key: r.Datastore.store.keys.record("/k"), value: migrated.encode()}, row{key: r.Datastore.store.keys.loser("/k", block)})
		return nil
	}))
	r.untidyCheckpoint()
	r.compact()
	if got := r.get("/k"); got != "(none)" {
		t.Errorf("Get: %q", got)
	}
}

// Where nobody can tell what a block gave to a key, the loser stays, and the block may be
// found again.
func TestDropKeepsLosersThatCannotBeJudged(t *testing.T) {
	r := newTestNet().newReplica(t, silent)
	r.put("/k", "loser")
	lost := r.head()
	raw := r.node.raw(idOf(lost))
	r.put("/k", "winner")
	c := r.untidyCheckpoint()
	r.reopenWith(localDAG{r.node}, nil)
	page := pageName{id: r.known(c).snapshot.versions}
	for _, gone := range []blockID{idOf(lost), page.id} {
		r.must(r.node.Remove(ctx, gone.Cid()))
	}
	if _, err := r.Compact(ctx); err == nil {
		t.Error("it does not say that a page is lost")
	}
	if rows := r.rowsUnder("/s/l"); len(rows) != 1 {
		t.Fatalf("%d losers are left", len(rows))
	}
	r.node.net.mu.Lock()
	r.node.blocks[lost] = raw
	r.node.net.mu.Unlock()
	r.removeWinner("/k")
	if got := r.get("/k"); got != "loser" {
		t.Errorf("Get: %q", got)
	}
}

// Losers that are kept in mind may have keys of any length.
func TestLostLosersAreHeldWithinBounds(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	r.checkpoint()
	d := r.checkpointer.newDrop(r.frontier.checkpoints().held())
	long := strings.Repeat("k", MaxKeyLength/2)
	for i := range 3 * maxLostBytes / len(long) {
		r.must(d.lose(ctx, versionName{fmt.Sprint("/", i, long), testID(i)}))
		if held := len(d.values.lost) * len(long); held > maxLostBytes {
			t.Fatalf("%d bytes are held", held)
		}
	}
}
