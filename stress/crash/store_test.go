package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/boxo/ipld/merkledag"
	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	badger "github.com/ipfs/go-ds-badger4"
	pebbleds "github.com/ipfs/go-ds-pebble"
	ipld "github.com/ipfs/go-ipld-format"
)

// namespace is where a replica keeps its rows. Its blocks lie beside it, in the
// same store.
var namespace = ds.NewKey("/crdt")

// storeKinds are the stores that replicas are killed on.
var storeKinds = []string{"badger", "pebble"}

// openStore opens a store that syncs every write. Neither does by default, and
// Pebble then keeps what it has written in the memory of the process for a
// moment: a SIGKILL loses it.
func openStore(kind, dir string) (ds.Batching, error) {
	switch kind {
	case "badger":
		return openBadger(dir)
	case "pebble":
		return pebbleds.NewDatastore(dir, pebbleds.WithPebbleWriteOptions(pebble.Sync))
	}
	return nil, fmt.Errorf("there is no store of the kind %q", kind)
}

// openBadger tries again if need be. Badger that was killed after it had created
// a file for a memtable or for values, and before it had given that its size,
// refuses to open, but not before it has done so. Nothing is lost: an empty file
// holds nothing.
func openBadger(dir string) (store ds.Batching, err error) {
	opts := badger.DefaultOptions
	opts.SyncWrites = true
	for range 3 {
		store, err = badger.NewDatastore(dir, &opts)
		if err == nil || !strings.Contains(err.Error(), "Create a new file") {
			break
		}
	}
	return store, err
}

func TestBadgerOpensAtTheSecondTry(t *testing.T) {
	for _, name := range []string{"00001.mem", "000001.vlog"} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		if store, err := badger.NewDatastore(dir, nil); err == nil {
			t.Errorf("Badger opens at once beside an empty %s: openBadger need not try again", name)
			must(t, store.Close())
		}
		store, err := openBadger(dir)
		must(t, err)
		must(t, store.Close())
	}
}

func newDAGService(bs blockstore.Blockstore, l *link) ipld.DAGService {
	return merkledag.NewDAGService(blockservice.New(bs, l))
}

// A readReporter is a DAG service that reports each block it is asked for,
// before it looks for it.
type readReporter struct {
	ipld.DAGService
	rows   ds.Read
	report func(c cid.Cid, merged bool)
}

func (r *readReporter) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	r.note(ctx, c)
	return r.DAGService.Get(ctx, c)
}

func (r *readReporter) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
	for _, c := range cids {
		r.note(ctx, c)
	}
	return r.DAGService.GetMany(ctx, cids)
}

// note looks at the row that marks a merged block, which is there before New
// returns, unlike the replica.
func (r *readReporter) note(ctx context.Context, c cid.Cid) {
	merged, err := r.rows.Has(ctx, namespace.ChildString("b").Child(dshelp.MultihashToDsKey(c.Hash())))
	r.report(c, merged && err == nil)
}
