package crdt

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	logging "github.com/ipfs/go-log/v2"
)

var ctx = context.Background()

// A replica is a datastore under test, with what it stands on.
type replica struct {
	*MerkleCRDT
	t     *testing.T
	store ds.Datastore
	node  *testNode
	opts  *Options
}

var testNamespace = ds.NewKey("/crdt")

// silent keeps what stores that fail on purpose give rise to out of the log.
func silent(o *Options) {
	o.Logger = logging.Logger("crdt-silent")
	if err := logging.SetLogLevel("crdt-silent", "fatal"); err != nil {
		panic(err)
	}
}

func testOptions() *Options {
	o := DefaultOptions()
	o.RebroadcastInterval = 200 * time.Millisecond
	o.DAGSyncerTimeout = 10 * time.Second
	return o
}

// newReplica opens a replica on an empty store. At the end of the test it is
// closed and everything in its store is checked.
func (n *testNet) newReplica(t *testing.T, change ...func(*Options)) *replica {
	return n.newReplicaOn(t, newAtomicStore(), change...)
}

func (n *testNet) newReplicaOn(t *testing.T, store ds.Datastore, change ...func(*Options)) *replica {
	r := &replica{t: t, store: store, node: n.node(), opts: testOptions()}
	for _, f := range change {
		f(r.opts)
	}
	r.open()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("closing: %s", err)
		}
		checkStore(t, r)
	})
	return r
}

func (r *replica) open() {
	r.t.Helper()
	m, err := NewMerkleCRDT(r.store, testNamespace, r.node, r.node, r.opts, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.MerkleCRDT = m
}

func (r *replica) restart() {
	r.t.Helper()
	r.must(r.Close())
	r.open()
}

// reopenWith restarts a replica with another DAG service or other internals.
func (r *replica) reopenWith(dagSyncer ipld.DAGService, internal *MerkleCRDTOptions) {
	r.t.Helper()
	r.must(r.Close())
	m, err := NewMerkleCRDT(r.store, testNamespace, dagSyncer, r.node, r.opts, internal)
	r.must(err)
	r.MerkleCRDT = m
}

func (r *replica) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) put(key, value string) {
	r.t.Helper()
	r.must(r.Put(context.Background(), ds.NewKey(key), []byte(value)))
}

func (r *replica) del(key string) {
	r.t.Helper()
	r.must(r.Delete(context.Background(), ds.NewKey(key)))
}

func (r *replica) get(key string) string {
	r.t.Helper()
	v, err := r.Get(context.Background(), ds.NewKey(key))
	if errors.Is(err, ds.ErrNotFound) {
		return "(none)"
	}
	r.must(err)
	return string(v)
}

func (r *replica) pairs() map[string]string {
	r.t.Helper()
	res, err := r.Query(context.Background(), query.Query{})
	r.must(err)
	all, err := res.Rest()
	r.must(err)
	m := make(map[string]string, len(all))
	for _, e := range all {
		m[e.Key] = string(e.Value)
	}
	return m
}

func (r *replica) rowsUnder(prefix string) (rows []query.Entry) {
	r.t.Helper()
	res, err := r.store.Query(context.Background(), query.Query{Prefix: testNamespace.String() + prefix})
	r.must(err)
	rows, err = res.Rest()
	r.must(err)
	return rows
}

// head returns the CID of the only head.
func (r *replica) head() cid.Cid {
	r.t.Helper()
	heads, _, err := r.Heads().List(ctx)
	r.must(err)
	if len(heads) != 1 {
		r.t.Fatalf("%d heads, want 1", len(heads))
	}
	return heads[0].Cid
}

// state says what a replica knows of a block.
func (r *replica) state(c cid.Cid) markState {
	r.t.Helper()
	id, err := blockIDOf(c)
	r.must(err)
	b, found, err := r.Datastore.store.getRow(ctx, r.Datastore.store.keys.block(id))
	r.must(err)
	if !found {
		return unknown
	}
	m, err := decodeMark(b)
	r.must(err)
	return m.state
}

// offer forges a block at a liar's and announces it to r.
func (r *replica) offer(liar *testNode, d *pb.Delta, links ...cid.Cid) cid.Cid {
	r.t.Helper()
	c := liar.forge(r.t, marshalDelta(r.t, d), links...)
	r.node.deliver(announcement(c))
	return c
}

func (r *replica) awaitMerged(c cid.Cid) {
	r.t.Helper()
	waitFor(r.t, "a block to be merged", func() bool { return r.state(c).merged() })
}

// awaitWriters waits until so many writes wait for the turn.
func (r *replica) awaitWriters(n int) {
	r.t.Helper()
	waitFor(r.t, "writers that wait together", func() bool {
		r.writer.mu.Lock()
		defer r.writer.mu.Unlock()
		return len(r.writer.queue) == n
	})
}

// limitHooks lets fewer events wait.
func (r *replica) limitHooks(events, bytes int) {
	r.hooks.mu.Lock()
	defer r.hooks.mu.Unlock()
	r.hooks.maxEvents, r.hooks.maxBytes = events, bytes
}

func (r *replica) waitingHooks() int {
	r.hooks.mu.Lock()
	defer r.hooks.mu.Unlock()
	return len(r.hooks.events)
}

// limitCommits makes the commits of a replica smaller than they have to be.
func (r *replica) limitCommits(spread, uncovers int) {
	r.t.Helper()
	r.must(r.committer.acquire(ctx))
	defer r.committer.release()
	r.committer.spread, r.committer.uncovers = spread, uncovers
}

func inline(size int) func(*Options) {
	return func(o *Options) { o.InlineBlockSize, o.RebroadcastInterval = size, time.Hour }
}

// forbid refuses deltas with a key below /forbidden.
func forbid(o *Options) {
	silent(o)
	o.CheckDelta = func(_ context.Context, _ Head, d Delta) error {
		elements, err := d.GetElements()
		for _, e := range elements {
			if strings.HasPrefix(e.GetKey(), "/forbidden/") {
				return errForbidden
			}
		}
		return err
	}
}

var errForbidden = errors.New("forbidden")

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // some machines are slow
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// awaitNil fails unless a call returns nil before long.
func awaitNil(t *testing.T, what string, call func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(time.Minute): // some machines are slow
		t.Fatalf("%s has not returned", what)
	}
}

// converge waits until all replicas hold the same heads, with nothing missing,
// and fails unless they then hold the same pairs.
func converge(t *testing.T, replicas ...*replica) map[string]string {
	t.Helper()
	waitFor(t, "replicas to have the same heads", func() bool {
		first, _ := replicas[0].frontier.tips()
		for _, r := range replicas {
			heads, pendingHeads := r.frontier.tips()
			if len(pendingHeads) > 0 || !maps.Equal(heads, first) {
				return false
			}
		}
		return true
	})
	want := replicas[0].pairs()
	for i, r := range replicas[1:] {
		if got := r.pairs(); !maps.Equal(got, want) {
			t.Fatalf("replica %d holds %v, replica 0 holds %v", i+1, got, want)
		}
	}
	return want
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }
