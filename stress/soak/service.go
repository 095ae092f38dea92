package main

import (
	"context"
	"errors"
	"io"
	"net/rpc"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-log/v2"
)

// replicaDir names the variable of the environment that makes this program a replica:
// the directory to keep its store and its identity in.
const replicaDir = "CRDT_SOAK_REPLICA"

// Service is a replica as the controller sees it.
type Service struct{ *node }

// None is an argument or a result that says nothing.
type None struct{}

// serve runs a replica until it is told to leave, or the controller is gone.
func serve(dir string, args []string) error {
	cfg, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	runtime.MemProfileRate = profileRate
	log.SetupLogging(log.Config{Level: log.LevelError, Format: log.PlaintextOutput, Stderr: true,
		SubsystemLevels: map[string]log.LogLevel{"crdt": log.LevelWarn}})
	n, err := openNode(dir, cfg)
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Replica", Service{n}); err != nil {
		return err
	}
	server.ServeConn(stdio{})
	return n.close()
}

// stdio is what net/rpc talks through.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

var _ io.ReadWriteCloser = stdio{}

// Addr says where to connect to.
func (s Service) Addr(_ None, addr *string) (err error) {
	*addr, err = s.net.addr()
	return err
}

// SetLinks tells of all other replicas.
func (s Service) SetLinks(links []Link, _ *None) error { return s.net.setLinks(links) }

// Apply writes.
func (s Service) Apply(c Change, _ *None) error {
	ctx := context.Background()
	if !c.Batch {
		return write(ctx, s.replica, c)
	}
	b, err := s.replica.Batch(ctx)
	if err != nil {
		return err
	}
	if err := write(ctx, b, c); err != nil {
		return err
	}
	return b.Commit(ctx)
}

func write(ctx context.Context, to datastore.Write, c Change) error {
	for _, p := range c.Puts {
		if err := to.Put(ctx, datastore.NewKey(p.Key), []byte(p.Value)); err != nil {
			return err
		}
	}
	for _, key := range c.Deletes {
		if err := to.Delete(ctx, datastore.NewKey(key)); err != nil {
			return err
		}
	}
	return nil
}

// Pairs lists what lies below a prefix, "" for all.
func (s Service) Pairs(prefix string, pairs *[]Pair) error {
	results, err := s.replica.Query(context.Background(), query.Query{Prefix: prefix})
	if err != nil {
		return err
	}
	entries, err := results.Rest()
	for _, e := range entries {
		*pairs = append(*pairs, Pair{e.Key, string(e.Value)})
	}
	return err
}

// Look tells the state.
func (s Service) Look(_ None, state *State) error {
	stats := s.replica.InternalStats(context.Background())
	for _, head := range stats.Heads {
		state.Heads = append(state.Heads, head.Cid.String())
	}
	slices.Sort(state.Heads)
	state.Height, state.Missing = stats.MaxHeight, stats.QueuedJobs
	state.Heap, state.Goroutines = heapNow(), runtime.NumGoroutine()
	return nil
}

// Complete says whether the replica has merged these heads and all blocks below. A block
// that has been merged has a mark, empty once this is so, or is covered by a checkpoint.
func (s Service) Complete(heads []string, complete *bool) error {
	for _, head := range heads {
		c, err := cid.Decode(head)
		if err != nil {
			return err
		}
		mark := namespace.ChildString("b").Child(dshelp.MultihashToDsKey(c.Hash()))
		size, err := s.store.GetSize(context.Background(), mark)
		if size > 0 || err != nil && !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
		if done, err := s.replica.IsProcessed(context.Background(), c); err != nil || !done {
			return err
		}
	}
	*complete = true
	return nil
}

// Measure collects garbage, counts, and writes a heap profile.
func (s Service) Measure(profile string, u *Usage) (err error) {
	*u = measure()
	if err := s.lookAtStore(u); err != nil {
		return err
	}
	f, err := os.Create(profile)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// lookAtStore counts what is in the store: blocks, their marks, and all other rows.
func (s Service) lookAtStore(u *Usage) error {
	marks := namespace.ChildString("b").String() + "/"
	results, err := s.store.Query(context.Background(), query.Query{KeysOnly: true, ReturnsSizes: true})
	if err != nil {
		return err
	}
	defer results.Close()
	for r := range results.Next() {
		if r.Error != nil {
			return r.Error
		}
		u.Rows, u.Stored = u.Rows+1, u.Stored+uint64(len(r.Key)+r.Size)
		if strings.HasPrefix(r.Key, marks) {
			u.Blocks++
		}
	}
	return nil
}
