package crdt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

func TestDeltasThatAreNotAdmittedAreRefused(t *testing.T) {
	for _, size := range []int{-1, 1 << 10} {
		t.Run(fmt.Sprint("inline=", size), func(t *testing.T) {
			net := newTestNet()
			careless := net.newReplica(t, inline(size))
			r := net.newReplica(t, forbid)
			careless.put("/good", "v")
			r.awaitMerged(careless.head())
			careless.put("/forbidden/k", "v")
			bad := careless.head()
			careless.put("/above", "v")
			waitFor(t, "the block to be refused", func() bool { return r.state(bad) == refused })
			waitFor(t, "the block above it", func() bool { return r.state(careless.head()) == stranded })
			if got := fmt.Sprint(r.pairs()); got != "map[/above:v /good:v]" {
				t.Errorf("pairs: %s", got)
			}
			r.put("/after", "v") // on the last head that is whole
			careless.awaitMerged(r.head())
		})
	}
}

func TestWritesThatAreNotAdmittedFailAlone(t *testing.T) {
	r := newTestNet().newReplica(t, forbid)
	r.must(r.committer.acquire(ctx))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { r.put(fmt.Sprint("/good/", i), "v") })
		wg.Go(func() {
			err := r.Put(ctx, ds.NewKey(fmt.Sprint("/forbidden/", i)), nil)
			if !errors.Is(err, ErrInvalidBlock) || !errors.Is(err, errForbidden) {
				t.Errorf("Put: %v", err)
			}
		})
	}
	r.awaitWriters(20)
	r.committer.release()
	wg.Wait()
	if got := r.pairs(); len(got) != 10 {
		t.Errorf("pairs: %v", got)
	}
}

func TestCheckDeltaSeesTheBlock(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) {
		o.CheckDelta = func(_ context.Context, h Head, d Delta) error {
			mu.Lock()
			defer mu.Unlock()
			elements, err := d.GetElements()
			seen = append(seen, fmt.Sprint(h, elements[0].GetKey()))
			return err
		}
	})
	liar := net.node()
	c := r.offer(liar, &pb.Delta{Priority: 7, DagName: "dag", Elements: oneElement("/k")})
	r.awaitMerged(c)
	r.put("/mine", "v")
	heads, _, err := r.Heads().ListDAG(ctx, "")
	r.must(err)
	want := []string{
		fmt.Sprintf("%s (height 7 in dag)/k", c),
		fmt.Sprintf("%s (height 1)/mine", heads[0].Cid),
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("judged %v, want %v", seen, want)
	}
}

// A judge that was cut off has not judged.
func TestCheckDeltaThatIsCutOffRefusesNothing(t *testing.T) {
	net := newTestNet()
	other := net.newReplica(t)
	begun := make(chan struct{}, 1)
	patient := func(ctx context.Context, _ Head, _ Delta) error {
		select {
		case begun <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}
	r := net.newReplica(t, func(o *Options) { o.CheckDelta = patient })
	other.put("/k", "v")
	<-begun
	r.must(r.Close())
	r.opts.CheckDelta = nil
	r.open()
	converge(t, r, other)
}

// A write that failed for want of room in the first attempt of a group, and
// was written in the second, has not failed.
func TestWriteThatFitsInTheSecondAttempt(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, forbid, func(o *Options) { o.MaxBlockSize = 4 << 10 })
	liar := net.node()
	for i := range 30 {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement(fmt.Sprint("/h", i))}))
	}
	r.must(r.committer.acquire(ctx))
	errs := make([]chan error, 3)
	for i, w := range []struct{ key, value string }{{"/good", "v"}, {"/forbidden/k", "v"}, {"/large", strings.Repeat("x", 2500)}} {
		errs[i] = make(chan error, 1)
		go func() { errs[i] <- r.Put(ctx, ds.NewKey(w.key), []byte(w.value)) }()
		r.awaitWriters(i + 1)
	}
	r.committer.release()
	for i, c := range errs {
		if err := <-c; (err == nil) != (i != 1) {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if v := r.get("/large"); len(v) != 2500 {
		t.Errorf("/large has %d bytes", len(v))
	}
}

func TestInlineBlockThatIsNotAdmittedIsNotKept(t *testing.T) {
	net := newTestNet()
	b := net.newReplica(t, forbid)
	liar := net.node()
	bad := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, Elements: oneElement("/forbidden/k")}))
	b.node.deliver(announceInline(bad, liar.blocks[bad]))
	waitFor(t, "the refusal", func() bool { return b.state(bad) == refused })
	b.node.net.mu.Lock()
	defer b.node.net.mu.Unlock()
	if b.node.blocks[bad] != nil {
		t.Error("a refused block is kept")
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

// A linklessNode is a node of another implementation: only its bytes count.
type linklessNode struct{ ipld.Node }

func (linklessNode) Links() []*ipld.Link { return nil }

type linklessDAG struct{ *testNode }

func (d linklessDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	n, err := d.testNode.Get(ctx, c)
	return linklessNode{n}, err
}

func TestRepairReadsTheBytes(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/0", "v")
	first, err := blockIDOf(r.head())
	r.must(err)
	r.put("/1", "v")
	r.reopenWith(linklessDAG{r.node}, nil)
	mark := r.Datastore.store.keys.block(first)
	r.must(r.store.Delete(ctx, mark)) // a gap, as the old module may leave
	r.must(r.Repair(ctx))
	if found, err := r.store.Has(ctx, mark); !found || err != nil {
		t.Errorf("the gap was not found: %v", err)
	}
}

// A halfDAG does something instead of taking a second block.
type halfDAG struct {
	*testNode
	first ipld.Node
	then  func(first cid.Cid)
}

func (d *halfDAG) Add(ctx context.Context, node ipld.Node) error {
	if d.first != nil {
		d.then(d.first.Cid())
		return errFault
	}
	d.first = node
	return d.testNode.Add(ctx, node)
}

// Two replicas that remove the same versions make the same blocks. What one of them
// has announced is fetched while the other's write is failing half-way.
func TestFailedWriteLeavesTheSameBlockOfAnotherReplicaAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, func(o *Options) { o.MaxBatchDeltaSize = 100 }) // of a tombstone
		r.put("/a", "v")
		r.put("/b", "v")
		var same cid.Cid
		r.reopenWith(&halfDAG{testNode: r.node, then: func(first cid.Cid) {
			same = first
			r.node.deliver(announcement(same))
			synctest.Wait() // it has been fetched, and waits for the turn
		}}, nil)
		b, err := r.Batch(ctx)
		r.must(err)
		r.must(b.Delete(ctx, ds.NewKey("/a")))
		if err := b.Delete(ctx, ds.NewKey("/b")); !errors.Is(err, errFault) { // it commits both
			t.Errorf("Delete: %v", err)
		}
		r.awaitMerged(same)
		if r.head() != same || r.node.blocks[same] == nil {
			t.Errorf("head %s; the DAG service has %s: %v", r.head(), same, r.node.blocks[same] != nil)
		}
	})
}
