package main

import (
	"errors"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	ds "github.com/ipfs/go-datastore"
	crdt "github.com/ipfs/go-ds-crdt"
)

// namespace is where a replica keeps its rows. The blocks lie beside it.
var namespace = ds.NewKey("/crdt")

// A replica is a datastore with what it stands on.
type replica struct {
	*crdt.Datastore
	dir    string
	store  store
	blocks blockstore.Blockstore

	storeTook, crdtTook time.Duration // to open
}

// A place says where a replica is and whom it hears.
type place struct {
	kind, dir string
	member    *member
	peer      *replica // it gets blocks from there; may be nil
	onPut     func(ds.Key, []byte)
	options   func(*crdt.Options) // may be nil
}

func openReplica(p place) (*replica, error) {
	r := &replica{dir: p.dir}
	begun := time.Now()
	var err error
	if r.store, err = openStore(p.kind, p.dir); err != nil {
		return nil, err
	}
	r.storeTook = time.Since(begun)

	begun = time.Now()
	r.blocks = blockstore.NewBlockstore(r.store)
	dag := merkledag.NewDAGService(blockservice.New(r.blocks, p.exchange()))
	opts := crdt.DefaultOptions()
	opts.PutHook = p.onPut
	if p.options != nil {
		p.options(opts)
	}
	if r.Datastore, err = crdt.New(r.store, namespace, dag, p.member, opts); err != nil {
		return nil, errors.Join(err, r.store.Close())
	}
	r.crdtTook = time.Since(begun)
	return r, nil
}

// exchange takes the place of bitswap. Over a peer's blockstore the exchange that
// is called offline is one that has all its blocks at hand; the block service
// stores what it gets from there.
func (p *place) exchange() exchange.Interface {
	if p.peer == nil {
		return nil
	}
	return offline.Exchange(p.peer.blocks)
}

// Close closes the replica and its store. Again, it does nothing.
func (r *replica) Close() error {
	if r.store == nil {
		return nil
	}
	err := errors.Join(r.Datastore.Close(), r.store.Close())
	r.store = nil
	return err
}
