package crdt

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
	badger "github.com/ipfs/go-ds-badger4"
)

// benchReplica is a replica on Badger without fsync, with its blocks in memory.
func benchReplica(b *testing.B, node *testNode, opts *Options) *Datastore {
	badgerOpts := badger.DefaultOptions
	badgerOpts.Options = badgerOpts.WithSyncWrites(false)
	store, err := badger.NewDatastore(b.TempDir(), &badgerOpts)
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(store, testNamespace, node, node, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close(); store.Close() })
	b.ReportAllocs()
	b.ResetTimer()
	return d
}

func benchOffline(b *testing.B) *Datastore { return benchReplica(b, newTestNet().node(), nil) }

var benchValue = make([]byte, 100)

func benchKey(i int) ds.Key { return ds.RawKey(fmt.Sprintf("/bench/%08d", i)) }

func benchPut(b *testing.B, d *Datastore, i int) {
	if err := d.Put(ctx, benchKey(i), benchValue); err != nil {
		b.Error(err)
	}
}

// benchBatches puts n keys in batches.
func benchBatches(b *testing.B, d *Datastore, n, size int) {
	for i := 0; i < n; i += size {
		batch, err := d.Batch(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for j := i; j < min(i+size, n); j++ {
			if err := batch.Put(ctx, benchKey(j), benchValue); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	d := benchOffline(b)
	for i := range b.N {
		benchPut(b, d, i)
	}
}

func BenchmarkOverwrite(b *testing.B) {
	d := benchOffline(b)
	for range b.N {
		benchPut(b, d, 0)
	}
}

func BenchmarkPutOf64Goroutines(b *testing.B) {
	d := benchOffline(b)
	var next atomic.Int64
	b.SetParallelism(32) // times 2 processors
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			benchPut(b, d, int(next.Add(1)))
		}
	})
}

// One operation is one key.
func BenchmarkBatchOf1000(b *testing.B) {
	benchBatches(b, benchOffline(b), b.N, 1000)
}

// One operation is a Put and the Delete of it.
func BenchmarkPutAndDelete(b *testing.B) {
	d := benchOffline(b)
	for i := range b.N {
		benchPut(b, d, i)
		if err := d.Delete(ctx, benchKey(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	d := benchOffline(b)
	benchBatches(b, d, 10_000, 1000)
	b.ResetTimer()
	for i := range b.N {
		if _, err := d.Get(ctx, benchKey(i%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

// One operation is one pair of a Query over all.
func BenchmarkQuery(b *testing.B) {
	d := benchOffline(b)
	benchBatches(b, d, b.N, 1000)
	b.ResetTimer()
	res, err := d.Query(ctx, query.Query{})
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for r := range res.Next() {
		if r.Error != nil {
			b.Fatal(r.Error)
		}
		n++
	}
	if n != b.N {
		b.Errorf("%d pairs of %d", n, b.N)
	}
}

// One operation is one key that a newcomer merges.
func BenchmarkMergePuts(b *testing.B)          { benchMerge(b, 1) }
func BenchmarkMergeBatchesOf1000(b *testing.B) { benchMerge(b, 1000) }

func benchMerge(b *testing.B, batch int) {
	net := newTestNet()
	writer := benchReplica(b, net.node(), nil)
	benchBatches(b, writer, b.N, batch)
	var merged atomic.Int64
	done := make(chan struct{})
	opts := DefaultOptions()
	opts.PutHook = func(ds.Key, []byte) {
		if merged.Add(1) == int64(b.N) {
			close(done)
		}
	}
	newcomer := net.node()
	benchReplica(b, newcomer, opts)
	newcomer.deliver(announcement(writer.InternalStats(ctx).Heads[0].Cid))
	<-done
}

// One operation is one key that one replica puts and another merges at once.
func BenchmarkMergeLive(b *testing.B) {
	net := newTestNet()
	writer, reader := net.node(), net.node()
	w := benchReplica(b, writer, nil)
	opts := DefaultOptions()
	onTheWay := make(chan struct{}, 100) // more would have to be fetched
	opts.PutHook = func(ds.Key, []byte) { <-onTheWay }
	benchReplica(b, reader, opts)
	for i := range b.N {
		onTheWay <- struct{}{}
		benchPut(b, w, i)
	}
	for len(onTheWay) > 0 {
		time.Sleep(time.Millisecond)
	}
}

// One operation is 30 replicas that put 100 keys each at the same time, until all
// have all. On go-datastore's map store a Query looks at every row there is.
func BenchmarkThirtyOnMapStores(b *testing.B) {
	for range b.N {
		const replicas, keys = 30, 100
		net := newTestNet()
		var all []*Datastore
		var merging sync.WaitGroup
		for range replicas {
			node, opts := net.node(), DefaultOptions()
			merging.Add(replicas * keys)
			opts.PutHook = func(ds.Key, []byte) { merging.Done() }
			d, err := New(dssync.MutexWrap(ds.NewMapDatastore()), testNamespace, node, node, opts)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, d)
		}
		for r, d := range all {
			go func() {
				for i := range keys {
					benchPut(b, d, r*keys+i)
				}
			}()
		}
		merging.Wait()
		for _, d := range all {
			d.Close()
		}
	}
}

// One operation is one block that is looked at.
func BenchmarkRepair(b *testing.B) {
	d := benchOffline(b)
	for i := range b.N {
		benchPut(b, d, i)
	}
	b.ResetTimer()
	if err := d.Repair(ctx); err != nil {
		b.Fatal(err)
	}
}

// One operation is one entry of 150 bytes that is added to a versions tree.
func BenchmarkBuildTree(b *testing.B) {
	e := entry{value: make([]byte, 118)}
	tree := newTreeBuilder(nothingKept{})
	b.ReportAllocs()
	b.SetBytes(150)
	keys := make([]byte, 0, 32)
	for i := range b.N {
		keys = fmt.Appendf(keys[:0], "/some/key/of/%019d", i)
		e.key, e.id = string(keys), blockN(i/20)
		if err := tree.add(ctx, &e); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := tree.finish(ctx); err != nil {
		b.Fatal(err)
	}
}

// One operation is one entry of 150 bytes that is read and checked.
func BenchmarkCheckTree(b *testing.B) {
	h := newTreeHarness(b)
	root := h.build(h.store, someVersions(b.N, 150-len("/some/key/000000000")))
	b.ReportAllocs()
	b.SetBytes(150)
	b.ResetTimer()
	h.must(h.store.checkTree(ctx, root, coversAll))
}

// One operation is the first checkpoint of 300,000 keys; the second one, after ten
// changes, is told of as ms/next and blocks/next.
func BenchmarkCheckpoint(b *testing.B) {
	for range b.N {
		b.StopTimer()
		node := newTestNet().node()
		d := benchReplica(b, node, nil)
		b.StopTimer()
		benchBatches(b, d, 300_000, 1000)
		b.StartTimer()
		benchCheckpoint(b, d)
		b.StopTimer()
		for i := range 10 {
			benchPut(b, d, i*29_989)
		}
		before, begun := node.stored(), time.Now()
		benchCheckpoint(b, d)
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/next")
		b.ReportMetric(float64(node.stored()-before), "blocks/next")
	}
}

func benchCheckpoint(b *testing.B, d *Datastore) {
	if _, err := d.Checkpoint(ctx); err != nil {
		b.Fatal(err)
	}
}

// stored returns how many blocks a node keeps.
func (node *testNode) stored() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return len(node.blocks)
}
