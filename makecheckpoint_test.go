package crdt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

func (r *replica) checkpoint() Head {
	r.t.Helper()
	head, err := r.Checkpoint(ctx)
	r.must(err)
	return head
}

// untidyCheckpoint makes a checkpoint, and removes no losers.
func (r *replica) untidyCheckpoint() Head { return r.untidyCheckpointIn("") }

func (r *replica) untidyCheckpointIn(dag string) Head {
	r.t.Helper()
	heads := r.checkpointer.headsToFold(dag)
	f, err := r.checkpointer.fold(ctx, dag, heads.ids(), r.Datastore.blocks)
	r.must(err)
	head, err := r.checkpointer.publish(ctx, dag, heads, f)
	r.must(err)
	return head
}

// known returns what a replica knows of a checkpoint; nil: nothing.
func (r *replica) known(h Head) *checkpoint {
	r.t.Helper()
	id, err := blockIDOf(h.Cid)
	r.must(err)
	return r.frontier.checkpoints()[id]
}

func (r *replica) awaitHeld(h Head) {
	r.t.Helper()
	waitFor(r.t, "a checkpoint to be held", func() bool {
		cp := r.known(h)
		return cp != nil && cp.state.held()
	})
}

func (r *replica) stateRoot() string {
	r.t.Helper()
	root, err := r.StateRoot(ctx)
	r.must(err)
	return root.String()
}

func TestCheckpointIsTheSameUntilSomethingChanges(t *testing.T) {
	r := newTestNet().newReplica(t)
	if _, err := r.Checkpoint(ctx); !errors.Is(err, errNoHeads) {
		t.Errorf("of nothing: %v", err)
	}
	r.put("/a", "1")
	r.put("/b", "1")
	r.del("/a")
	first := r.checkpoint()
	if first.Height != 4 || r.head() != first.Cid {
		t.Errorf("%v is not the head above the others", first)
	}
	if again := r.checkpoint(); again != first {
		t.Errorf("%v, and nothing had changed since %v", again, first)
	}
	r.put("/b", "2")
	second := r.checkpoint()
	if second.Height != 7 || r.known(second).snapshot.blocks != 6 {
		t.Errorf("%v, which covers %d blocks, is not on top of the last one and the tidying", second, r.known(second).snapshot.blocks)
	}
	r.restart()
	if again := r.checkpoint(); again != second {
		t.Errorf("%v after a restart, want %v", again, second)
	}
	if got := fmt.Sprint(r.pairs()); got != "map[/b:2]" {
		t.Errorf("%s", got)
	}
}

func TestCheckpointIsHeldByThoseWhoCheckIt(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	a.put("/a", "1")
	b.put("/b", "1")
	converge(t, a, b)
	head := a.checkpoint()
	b.awaitHeld(head)
	if b.known(head).taken {
		t.Error("it was checked, not taken")
	}
	if again := b.checkpoint(); again != head {
		t.Errorf("%v, want %v", again, head)
	}
}

// Replicas that make checkpoints at the same time come to the same state.
func TestCheckpointsAtTheSameTime(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for i := range 20 {
		a.put(fmt.Sprint("/a", i%5), fmt.Sprint(i))
		b.put(fmt.Sprint("/a", i%7), fmt.Sprint(-i))
		if i%5 == 4 {
			done := make(chan error)
			go func() {
				_, err := b.Checkpoint(ctx)
				done <- err
			}()
			a.checkpoint()
			a.must(<-done)
		}
	}
	converge(t, a, b)
	if x, y := a.stateRoot(), b.stateRoot(); x != y {
		t.Errorf("roots %s and %s", x, y)
	}
	head := a.checkpoint()
	b.awaitHeld(head)
	if x, y := a.stateRoot(), a.known(head).snapshot.versions.Cid().String(); x != y {
		t.Errorf("root %s, and the checkpoint says %s", x, y)
	}
}

func TestStateRootIsThatOfNothing(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), newTestNet().newReplica(t)
	if x, y := a.stateRoot(), b.stateRoot(); x != y {
		t.Errorf("%s and %s", x, y)
	}
}

func TestCheckpointOfANamedDAG(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "1")
	d := newPBDelta()
	d.SetDagName("x")
	d.SetElements([]*pb.Element{{Key: "/b", Value: []byte("1")}})
	_, err := r.Publish(ctx, d)
	r.must(err)
	head, err := r.CheckpointDAG(ctx, "x")
	r.must(err)
	if head.DAGName != "x" || head.Height != 2 || r.known(head).snapshot.entries != 1 {
		t.Errorf("%v of %+v", head, r.known(head).snapshot)
	}
	if _, err := r.CheckpointDAG(ctx, "x/y"); err == nil {
		t.Error("x/y is no name")
	}
}

// A checkpoint is folded beside writes, which stay heads beside it.
func TestCheckpointBesideWrites(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "1")
	heads := r.checkpointer.headsToFold("")
	f, err := r.checkpointer.fold(ctx, "", heads.ids(), r.Datastore.blocks)
	r.must(err)
	r.put("/b", "1")
	head, err := r.checkpointer.publish(ctx, "", heads, f)
	r.must(err)
	if n, _ := r.Heads().Len(ctx); n != 2 || r.known(head).snapshot.blocks != 1 {
		t.Errorf("%d heads, and it covers %d blocks", n, r.known(head).snapshot.blocks)
	}
	if next := r.checkpoint(); r.head() != next.Cid || r.known(next).snapshot.blocks != 3 {
		t.Errorf("it covers %d blocks", r.known(next).snapshot.blocks)
	}
}

func TestCheckpointIsAdmitted(t *testing.T) {
	var no error
	r := newTestNet().newReplica(t, func(o *Options) {
		o.CheckDelta = func(_ context.Context, _ Head, d Delta) error {
			if d.IsEmpty() {
				return no
			}
			return nil
		}
	})
	r.put("/a", "1")
	no = errForbidden
	if _, err := r.Checkpoint(ctx); !errors.Is(err, errForbidden) {
		t.Errorf("%v", err)
	}
	no = nil
	r.checkpoint()
}

func TestPurgeEndsACheckpoint(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "1")
	began, ended := make(chan struct{}), make(chan error)
	go func() {
		ended <- r.checkpointer.do(ctx, "", func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-began
	_, err := r.PurgeDAG(ctx, "")
	r.must(err)
	if err := <-ended; err != errPurging {
		t.Errorf("%v", err)
	}
	if _, err := r.Checkpoint(ctx); !errors.Is(err, errNoHeads) {
		t.Errorf("%v", err)
	}
}

func TestCheckpointEndsWithItsContext(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/a", "1")
	_, end, err := r.checkpointer.begin(ctx, "")
	r.must(err)
	defer end()
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := r.Checkpoint(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := r.Put(ctx, ds.NewKey("/b"), nil); err != nil {
		t.Error(err)
	}
}

// Pages that somebody has removed are waited for, but not for as long as DAGSyncerTimeout
// lets them be.
func TestCheckpointDoesNotWaitForLostPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, silent, func(o *Options) { o.DAGSyncerTimeout = 0 })
		r.put("/a", "1")
		r.checkpoint()
		for page := range r.heldPages() {
			r.must(r.node.Remove(ctx, page))
		}
		r.put("/b", "1")
		begun := time.Now()
		r.checkpoint()
		if took := time.Since(begun); took > 2*pagePatience {
			t.Errorf("a checkpoint took %s", took)
		}
	})
}
