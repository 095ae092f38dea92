package crdt_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/mount"
	"github.com/ipfs/go-datastore/namespace"
	"github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
	crdt "github.com/ipfs/go-ds-crdt"
	ipld "github.com/ipfs/go-ipld-format"
)

// A memoryDAG is a DAG service that keeps blocks in memory and fetches none.
// Programs use the one of boxo/ipld/merkledag, on a blockstore and bitswap.
type memoryDAG struct{ nodes sync.Map }

func (d *memoryDAG) Add(_ context.Context, n ipld.Node) error {
	d.nodes.Store(n.Cid(), n)
	return nil
}

func (d *memoryDAG) AddMany(ctx context.Context, nodes []ipld.Node) error {
	for _, n := range nodes {
		d.nodes.Store(n.Cid(), n)
	}
	return nil
}

func (d *memoryDAG) Get(_ context.Context, c cid.Cid) (ipld.Node, error) {
	n, ok := d.nodes.Load(c)
	if !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return n.(ipld.Node), nil
}

func (d *memoryDAG) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
	found := make(chan *ipld.NodeOption, len(cids))
	defer close(found)
	for _, c := range cids {
		n, err := d.Get(ctx, c)
		found <- &ipld.NodeOption{Node: n, Err: err}
	}
	return found
}

func (d *memoryDAG) Remove(_ context.Context, c cid.Cid) error {
	d.nodes.Delete(c)
	return nil
}

func (d *memoryDAG) RemoveMany(ctx context.Context, cids []cid.Cid) error {
	for _, c := range cids {
		d.nodes.Delete(c)
	}
	return nil
}

// offline opens a replica that nobody hears of, in memory.
func offline(opts *crdt.Options) *crdt.Datastore {
	store := dssync.MutexWrap(ds.NewMapDatastore())
	db, err := crdt.New(store, ds.NewKey("/crdt"), &memoryDAG{}, nil, opts)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func ExampleNew() {
	store := dssync.MutexWrap(ds.NewMapDatastore())
	db, err := crdt.New(store, ds.NewKey("/crdt"), &memoryDAG{}, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := db.Put(ctx, ds.NewKey("/greeting"), []byte("hello")); err != nil {
		log.Fatal(err)
	}
	value, err := db.Get(ctx, ds.NewKey("/greeting"))
	fmt.Printf("%s, %v\n", value, err)

	if err := db.Close(); err != nil {
		log.Fatal(err)
	}
	_, err = db.Get(ctx, ds.NewKey("/greeting"))
	fmt.Println(errors.Is(err, crdt.ErrClosed))
	// Output:
	// hello, <nil>
	// true
}

func ExampleDatastore_Query() {
	ctx := context.Background()
	db := offline(nil)
	defer db.Close()
	for _, name := range []string{"plum", "apple", "fig"} {
		if err := db.Put(ctx, ds.NewKey("/fruit").ChildString(name), []byte("ripe")); err != nil {
			log.Fatal(err)
		}
	}

	q := query.Query{Prefix: "/fruit", Orders: []query.Order{query.OrderByKey{}}}
	for entry, err := range ds.QueryIter(ctx, db, q) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s = %s\n", entry.Key, entry.Value)
	}
	// Output:
	// /fruit/apple = ripe
	// /fruit/fig = ripe
	// /fruit/plum = ripe
}

func ExampleDatastore_Batch() {
	ctx := context.Background()
	db := offline(nil)
	defer db.Close()
	batch, err := db.Batch(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_ = batch.Put(ctx, ds.NewKey("/from"), []byte("90"))
	_ = batch.Put(ctx, ds.NewKey("/to"), []byte("110"))
	before, _ := db.Has(ctx, ds.NewKey("/to"))
	if err := batch.Commit(ctx); err != nil {
		log.Fatal(err)
	}
	after, _ := db.Has(ctx, ds.NewKey("/to"))
	fmt.Println(before, after)

	// Both pairs are in one block, so no replica ever has only one of them.
	stats := db.InternalStats(ctx)
	fmt.Println(len(stats.Heads), "head of height", stats.MaxHeight)
	// Output:
	// false true
	// 1 head of height 1
}

func ExampleOptions_hooks() {
	opts := crdt.DefaultOptions()
	opts.PutHook = func(k ds.Key, v []byte) { fmt.Printf("put %s = %s\n", k, v) }
	opts.DeleteHook = func(k ds.Key) { fmt.Printf("delete %s\n", k) }
	db := offline(opts)
	defer db.Close()

	ctx := context.Background()
	lamp := ds.NewKey("/lamp")
	_ = db.Put(ctx, lamp, []byte("on"))
	_ = db.Put(ctx, lamp, []byte("off"))
	_ = db.Delete(ctx, lamp)
	_ = db.Delete(ctx, lamp) // there is nothing to delete: no hook is called
	// Output:
	// put /lamp = on
	// put /lamp = off
	// delete /lamp
}

// Pairs of one season go into a DAG of their own, to be forgotten with it.
func ExampleMerkleCRDT_PurgeDAG() {
	store := dssync.MutexWrap(ds.NewMapDatastore())
	db, err := crdt.NewMerkleCRDT(store, ds.NewKey("/crdt"), &memoryDAG{}, nil, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	_ = db.Put(ctx, ds.NewKey("/menu"), []byte("soup")) // in the unnamed DAG
	delta, _ := db.Set().Add(ctx, "/menu", []byte("ice cream"))
	delta.SetDagName("summer")
	head, err := db.Publish(ctx, delta)
	fmt.Println(head.DAGName, head.Height, err)
	value, _ := db.Get(ctx, ds.NewKey("/menu"))
	fmt.Printf("%s\n", value)

	blocks, err := db.PurgeDAG(ctx, "summer")
	fmt.Println(blocks, err)
	value, _ = db.Get(ctx, ds.NewKey("/menu"))
	fmt.Printf("%s\n", value)
	// Output:
	// summer 2 <nil>
	// ice cream
	// 1 <nil>
	// soup
}

// Two parts of a program share a replica, each in its own part of the keys.
func Example_namespaceWrapper() {
	ctx := context.Background()
	db := offline(nil)
	defer db.Close()

	users := namespace.Wrap(db, ds.NewKey("/users"))
	_ = users.Put(ctx, ds.NewKey("/ann"), []byte("admin"))

	inside, _ := users.Get(ctx, ds.NewKey("/ann"))
	whole, _ := db.Get(ctx, ds.NewKey("/users/ann"))
	fmt.Printf("%s %s\n", inside, whole)
	// Output: admin admin
}

// What is below /shared is replicated; everything else stays on this machine.
func Example_mountWrapper() {
	ctx := context.Background()
	shared := offline(nil)
	local := dssync.MutexWrap(ds.NewMapDatastore())
	all := mount.New([]mount.Mount{
		{Prefix: ds.NewKey("/shared"), Datastore: shared},
		{Prefix: ds.NewKey("/"), Datastore: local},
	})
	defer all.Close() // closes both

	_ = all.Put(ctx, ds.NewKey("/shared/plan"), []byte("picnic"))
	_ = all.Put(ctx, ds.NewKey("/cache/map"), []byte("tile"))
	plan, _ := shared.Get(ctx, ds.NewKey("/plan"))
	cached, _ := shared.Has(ctx, ds.NewKey("/map"))
	fmt.Printf("%s %v\n", plan, cached)
	// Output: picnic false
}

// A wire is a Broadcaster between two replicas of one program.
type wire struct{ out, in chan []byte }

func (w wire) Broadcast(ctx context.Context, data []byte) error {
	select {
	case w.out <- data: // it is only read: no copy needed
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w wire) Next(ctx context.Context) ([]byte, error) {
	select {
	case data := <-w.in:
		return append([]byte{}, data...), nil // the caller may change it
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Two replicas in one program. The DAG service that they share stands for a
// network that blocks can be fetched from.
func ExampleBroadcaster() {
	ctx := context.Background()
	blocks := &memoryDAG{}
	there, back := make(chan []byte, 16), make(chan []byte, 16)
	open := func(bcast crdt.Broadcaster, opts *crdt.Options) *crdt.Datastore {
		db, err := crdt.New(dssync.MutexWrap(ds.NewMapDatastore()), ds.NewKey("/crdt"), blocks, bcast, opts)
		if err != nil {
			log.Fatal(err)
		}
		return db
	}

	news := make(chan string, 1)
	opts := crdt.DefaultOptions()
	opts.PutHook = func(k ds.Key, v []byte) { news <- fmt.Sprintf("%s = %s", k, v) }
	reader := open(wire{out: back, in: there}, opts)
	defer reader.Close()
	author := open(wire{out: there, in: back}, nil)
	defer author.Close()

	if err := author.Put(ctx, ds.NewKey("/greeting"), []byte("hello")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-news)
	// Output: /greeting = hello
}
