package crdt

import (
	"bytes"
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	logging "github.com/ipfs/go-log/v2"
)

// An errorCount is a logger that counts errors.
type errorCount struct {
	logging.StandardLogger
	atomic.Int64
}

func (c *errorCount) Errorf(string, ...any) { c.Add(1) }

// countErrors has the errors counted that a replica logs.
func countErrors(c *errorCount) func(*Options) {
	return func(o *Options) {
		silent(o)
		c.StandardLogger, o.Logger = o.Logger, c
	}
}

// mergeTogether announces blocks, the first of them alone, while nothing can be
// committed: so the others make one group. It is for fake time.
func (r *replica) mergeTogether(blocks []cid.Cid, messages ...[]byte) {
	r.t.Helper()
	r.must(r.committer.acquire(ctx))
	r.node.deliver(announcement(blocks[0]))
	synctest.Wait()
	for _, m := range messages {
		r.node.deliver(m)
	}
	synctest.Wait()
	r.committer.release()
	synctest.Wait()
}

// manyValues are as many as fit the queue of the merger.
func manyValues() []string { return make([]string, 100) }

// Whatever is to be merged while a store fails, it is not for each block that a
// commit fails and a line is logged.
func TestFailingStoreSplitsNoGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, errors, store := newTestNet(), &errorCount{}, newFaultyStore()
		r := net.newReplicaOn(t, store, countErrors(errors))
		peer := net.node()
		blocks := peer.forgeMany(t, manyValues()...)
		store.failIn(0, math.MaxInt, false)
		r.mergeTogether(blocks, announcement(blocks[1:]...))
		if n := store.failures.Load(); n > 3 { // of the first block, the others, and one that asks whether it is the store
			t.Errorf("%d writes have failed", n)
		}
		if n := errors.Load(); n > 2 {
			t.Errorf("%d errors were logged", n)
		}
		store.heal()
		for _, c := range blocks {
			r.awaitMerged(c)
		}
	})
}

// A fullDAG takes no blocks.
type fullDAG struct {
	*testNode
	full  atomic.Bool
	times atomic.Int64 // that it did not
}

func (d *fullDAG) AddMany(ctx context.Context, nodes []ipld.Node) error {
	if d.full.Load() {
		d.times.Add(1)
		return errFault
	}
	return d.testNode.AddMany(ctx, nodes)
}

func TestFailingDAGServiceSplitsNoGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, errors := newTestNet(), &errorCount{}
		r := net.newReplica(t, countErrors(errors))
		full := &fullDAG{testNode: r.node}
		r.reopenWith(full, nil)
		peer := net.node()
		blocks := peer.forgeMany(t, manyValues()...)
		full.full.Store(true)
		var messages [][]byte
		for _, c := range blocks[1:] {
			messages = append(messages, announceInline(c, peer.blocks[c]))
		}
		r.mergeTogether(blocks, messages...)
		if n := full.times.Load(); n > 1 {
			t.Errorf("the DAG service was asked %d times to take blocks", n)
		}
		if n := errors.Load(); n > 1 {
			t.Errorf("%d errors were logged", n)
		}
		for _, c := range blocks { // they can be fetched
			r.awaitMerged(c)
		}
	})
}

// A pickyStore refuses values of its own choice.
type pickyStore struct{ ds.Batching }

type pickyBatch struct {
	ds.Batch
	err error
}

func (s pickyStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &pickyBatch{Batch: b}, err
}

func (b *pickyBatch) Put(ctx context.Context, key ds.Key, value []byte) error {
	if bytes.HasSuffix(value, []byte("refuse me")) {
		b.err = errFault
	}
	return b.Batch.Put(ctx, key, value)
}

func (b *pickyBatch) Commit(ctx context.Context) error {
	if b.err != nil {
		return b.err
	}
	return b.Batch.Commit(ctx)
}

// A block that cannot be merged keeps none of its group out: all happens before any
// is tried again.
func TestBlockAtFaultFailsAlone(t *testing.T) {
	damage := func(r *replica) {
		r.must(r.store.Put(ctx, r.Datastore.store.keys.record("/k50"), []byte("damaged")))
		r.restart() // or it would know that there is no record
	}
	mend := func(r *replica) { r.must(r.store.Delete(ctx, r.Datastore.store.keys.record("/k50"))) }
	nothing := func(*replica) {}
	for name, fault := range map[string]struct {
		store        ds.Batching
		value        string
		begin, after func(*replica)
	}{
		"a damaged record":        {newAtomicStore(), "", damage, mend},
		"a row the store refuses": {pickyStore{newAtomicStore()}, "refuse me", nothing, nothing},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newTestNet()
				r := net.newReplicaOn(t, fault.store, silent)
				fault.begin(r)
				values := manyValues()
				values[50] = fault.value
				blocks := net.node().forgeMany(t, values...)
				r.mergeTogether(blocks, announcement(blocks[1:]...))
				for i, c := range blocks {
					if merged, _ := r.IsProcessed(ctx, c); merged != (i != 50) {
						t.Errorf("block %d: %v", i, merged)
					}
				}
				fault.after(r)
			})
		})
	}
}

// A block whose parents cannot be told keeps no other from telling its own.
func TestUntoldBlockAtFaultStaysAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent)
		r.limitCommits(1, maxValueBytes) // the second parent is told by a later commit
		liar := net.node()
		bad, good := r.familyOf(liar, "/bad"), r.familyOf(liar, "/good")
		id, err := blockIDOf(bad.second)
		r.must(err)
		row := r.Datastore.store.keys.block(id)
		mark, err := r.store.Get(ctx, row)
		r.must(err)
		r.must(r.store.Put(ctx, row, []byte("damaged")))
		bad.showChild()
		time.Sleep(2 * retryPause)
		good.showChild()
		time.Sleep(time.Minute)
		if got := r.state(good.second); got != complete {
			t.Errorf("another block is %v", got)
		}
		r.must(r.store.Put(ctx, row, mark))
		time.Sleep(time.Minute)
		if got := r.state(bad.second); got != complete {
			t.Errorf("the block is %v when its mark can be read", got)
		}
	})
}

// A family is a child that is not here and two blocks that wait for it. The second is
// told after the first.
type family struct {
	first, second cid.Cid
	showChild     func()
}

func (r *replica) familyOf(liar *testNode, key string) (f family) {
	r.t.Helper()
	child := liar.forge(r.t, marshalDelta(r.t, &pb.Delta{Priority: 1, Elements: oneElement(key)}))
	f.showChild = liar.hide(r.t, child)
	f.first = r.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement(key)}, child)
	f.second = r.offer(liar, &pb.Delta{Priority: 3, Elements: oneElement(key)}, child)
	if bytes.Compare(f.first.Hash(), f.second.Hash()) > 0 {
		f.first, f.second = f.second, f.first
	}
	r.awaitMerged(f.first)
	r.awaitMerged(f.second)
	return f
}
