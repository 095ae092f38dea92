package crdt

import (
	"fmt"
	"testing"

	ds "github.com/ipfs/go-datastore"
	badger "github.com/ipfs/go-ds-badger4"
)

// benchReplica is an offline replica on Badger without fsync, with its blocks
// in memory.
func benchReplica(b *testing.B) *Datastore {
	opts := badger.DefaultOptions
	opts.Options = opts.WithSyncWrites(false)
	store, err := badger.NewDatastore(b.TempDir(), &opts)
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(store, testNamespace, newTestNet().node(), nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close(); store.Close() })
	b.ReportAllocs()
	b.ResetTimer()
	return d
}

var benchValue = make([]byte, 100)

func benchKey(i int) ds.Key { return ds.RawKey(fmt.Sprintf("/bench/%08d", i)) }

func BenchmarkPut(b *testing.B) {
	d := benchReplica(b)
	for i := range b.N {
		if err := d.Put(ctx, benchKey(i), benchValue); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutOf64Goroutines(b *testing.B) {
	d := benchReplica(b)
	b.SetParallelism(32) // times 2 processors
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			if err := d.Put(ctx, benchKey(i), benchValue); err != nil {
				b.Error(err)
			}
		}
	})
}

// One operation is one key.
func BenchmarkBatchOf1000(b *testing.B) {
	d := benchReplica(b)
	for i := 0; i < b.N; i += 1000 {
		batch, _ := d.Batch(ctx)
		for j := i; j < min(i+1000, b.N); j++ {
			if err := batch.Put(ctx, benchKey(j), benchValue); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	d := benchReplica(b)
	if err := d.Put(ctx, benchKey(0), benchValue); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, err := d.Get(ctx, benchKey(0)); err != nil {
			b.Fatal(err)
		}
	}
}
