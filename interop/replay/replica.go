package main

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/interop/wire"
)

var namespace = datastore.NewKey("/crdt")

// mergeWithin is how long a replica may take to merge what it can get. It needs some
// milliseconds; the rest is for slow machines.
const mergeWithin = time.Minute

// replica is a replica on a map.
type replica struct {
	*crdt.Datastore
	store   datastore.Batching
	library *library
	heard   radio
	opts    *crdt.Options
	cids    []cid.Cid // of the blocks of the Replay
}

func newReplica(req wire.Replay) (*replica, error) {
	r := &replica{
		store:   dssync.MutexWrap(datastore.NewMapDatastore()),
		library: newLibrary(),
		heard:   make(radio, len(req.Steps)),
		opts:    options(),
	}
	for _, b := range req.Blocks {
		c, err := cid.Decode(b.Cid)
		if err != nil {
			return nil, err
		}
		r.cids = append(r.cids, c)
	}
	return r, r.open()
}

// options let nothing happen on its own: what is merged is due to the steps alone.
func options() *crdt.Options {
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = time.Hour
	opts.DAGSyncerTimeout = time.Hour
	opts.RepairInterval = 0
	opts.NumWorkers = 64 // none is short because others wait for blocks
	return opts
}

func (r *replica) open() (err error) {
	r.Datastore, err = crdt.New(r.store, namespace, r.library, r.heard, r.opts)
	return err
}

func (r *replica) reopen() error {
	if err := r.Close(); err != nil {
		return err
	}
	return r.open()
}

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// merged tells whether there are marks for blocks, a part of the store format that both
// modules share.
func (r *replica) merged(ctx context.Context, indexes []int) (bool, error) {
	for _, i := range indexes {
		mark := namespace.ChildString("b").ChildString(base32Upper.EncodeToString(r.cids[i].Hash()))
		if has, err := r.store.Has(ctx, mark); !has || err != nil {
			return false, err
		}
	}
	return true, nil
}

// heads lists the rows of heads, which both modules write alike.
func (r *replica) heads(ctx context.Context) ([]string, error) {
	var heads []string
	for _, space := range []string{"/h", "/a"} {
		q := query.Query{Prefix: namespace.String() + space, KeysOnly: true}
		for e, err := range datastore.QueryIter(ctx, r.store, q) {
			if err != nil {
				return nil, err
			}
			heads = append(heads, strings.TrimPrefix(e.Key, namespace.String()))
		}
	}
	slices.Sort(heads)
	return heads, nil
}

func (r *replica) pairs(ctx context.Context) ([]wire.Pair, error) {
	var pairs []wire.Pair
	for e, err := range datastore.QueryIter(ctx, r.Datastore, query.Query{}) {
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, wire.Pair{Key: e.Key, Value: e.Value})
	}
	return pairs, nil
}

var errInVain = errors.New("waited in vain")

// await waits for what the replica does in the background.
func await(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(mergeWithin); ; time.Sleep(100 * time.Microsecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %s", errInVain, what)
		}
	}
}
