package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// answer does what a request asks for.
func (n *node) answer(ctx context.Context, req wire.Request) wire.Response {
	var resp wire.Response
	if err := n.do(ctx, req, &resp); err != nil {
		resp.Error = err.Error()
	}
	return resp
}

func (n *node) do(ctx context.Context, req wire.Request, resp *wire.Response) error {
	switch req.Op {
	case wire.Put:
		return n.replica.Put(ctx, datastore.NewKey(req.Key), req.Value)
	case wire.Get:
		return n.get(ctx, req, resp)
	case wire.Delete:
		return n.replica.Delete(ctx, datastore.NewKey(req.Key))
	case wire.PutMany:
		return putAll(ctx, n.replica, req.Pairs)
	case wire.Batch:
		return n.batch(ctx, req)
	case wire.List:
		return list(ctx, n.replica, query.Query{}, resp)
	case wire.Rows:
		return list(ctx, n.store, query.Query{Prefix: namespace.String()}, resp)
	case wire.Merged:
		return n.merged(ctx, resp)
	case wire.Stats:
		return n.stats(ctx, resp)
	case wire.Connect:
		return n.net.connect(ctx, req.Addr)
	case wire.Isolate:
		return n.net.isolate()
	case wire.Rejoin:
		n.net.rejoin()
		return nil
	case wire.Forget:
		return n.forget(ctx)
	case wire.Checkpoint:
		return n.checkpoint(ctx)
	case wire.Compact:
		return n.compact(ctx, resp)
	case wire.Close:
		return n.close()
	}
	return fmt.Errorf("unknown operation %q", req.Op)
}

func (n *node) get(ctx context.Context, req wire.Request, resp *wire.Response) error {
	value, err := n.replica.Get(ctx, datastore.NewKey(req.Key))
	if errors.Is(err, datastore.ErrNotFound) {
		return nil
	}
	resp.Found, resp.Value = err == nil, value
	return err
}

func (n *node) batch(ctx context.Context, req wire.Request) error {
	b, err := n.replica.Batch(ctx)
	if err != nil {
		return err
	}
	if err := putAll(ctx, b, req.Pairs); err != nil {
		return err
	}
	for _, key := range req.Keys {
		if err := b.Delete(ctx, datastore.NewKey(key)); err != nil {
			return err
		}
	}
	return b.Commit(ctx)
}

func putAll(ctx context.Context, to datastore.Write, pairs []wire.Pair) error {
	for _, p := range pairs {
		if err := to.Put(ctx, datastore.NewKey(p.Key), p.Value); err != nil {
			return err
		}
	}
	return nil
}

func list(ctx context.Context, from datastore.Read, q query.Query, resp *wire.Response) error {
	results, err := from.Query(ctx, q)
	if err != nil {
		return err
	}
	entries, err := results.Rest()
	for _, e := range entries {
		resp.Pairs = append(resp.Pairs, wire.Pair{Key: e.Key, Value: e.Value})
	}
	return err
}

func (n *node) stats(ctx context.Context, resp *wire.Response) error {
	stats := n.replica.InternalStats(ctx)
	resp.Heads, resp.MaxHeight = len(stats.Heads), stats.MaxHeight
	resp.Dirty = n.replica.IsDirty(ctx)
	resp.LastCheckpoint = lastCheckpoint(stats)
	var err error
	resp.InVain, err = n.wants.missing(ctx, n.blocks)
	return err
}

// merged lists the marks of merged blocks, a part of the store format that both modules
// share.
func (n *node) merged(ctx context.Context, resp *wire.Response) error {
	marks := namespace.ChildString("b").String()
	return list(ctx, n.store, query.Query{Prefix: marks, KeysOnly: true}, resp)
}
