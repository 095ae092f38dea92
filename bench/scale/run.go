package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
)

// A bench is one run of this program.
type bench struct {
	config
	out     io.Writer
	root    string // holds the stores
	table   *table
	sampler *sampler
}

// run does what the flags say, and returns how many targets were missed.
func run(ctx context.Context, c config, out io.Writer) (missed int, err error) {
	if c.plot != "" {
		return 0, plotFile(c.plot, c.svg)
	}
	before := debug.SetMemoryLimit(int64(c.memory))
	defer debug.SetMemoryLimit(before)
	b, err := newBench(c, out)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if c.raw {
		return 0, b.runRaw(ctx)
	}
	return b.runReplicas(ctx)
}

func newBench(c config, out io.Writer) (*bench, error) {
	root, err := os.MkdirTemp(c.dir, "crdt-scale-")
	if err != nil {
		return nil, err
	}
	t, err := createTable(c.csv)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	fmt.Fprintf(out, "%s in %s, Go heap limit %s\n", c.store, root, c.memory)
	return &bench{config: c, out: out, root: root, table: t, sampler: startSampler()}, nil
}

func (b *bench) close() error {
	b.sampler.close()
	return errors.Join(b.table.close(), os.RemoveAll(b.root))
}

// dirOf returns where a replica is. The first one is "a".
func (b *bench) dirOf(replica string) string {
	if replica == "a" && b.keep != "" {
		return filepath.Join(b.keep, replica)
	}
	return filepath.Join(b.root, replica)
}

// runReplicas is the whole of it: load, join, verify, open again.
func (b *bench) runReplicas(ctx context.Context) (missed int, err error) {
	r := &report{keys: b.keys, limit: uint64(b.memory)}
	if err := b.fill(ctx, r); err != nil {
		return 0, err
	}
	if err := b.reopen(r); err != nil {
		return 0, err
	}
	r.take(b.table.rows, b.sampler.peak())
	if err := plotRows(b.table.rows, b.svg); err != nil {
		return 0, err
	}
	r.print(b.out)
	fmt.Fprintf(b.out, "\nwrote %s and %s\n", b.csv, b.svg)
	return r.missed(), nil
}

// fill makes both replicas, and closes them.
func (b *bench) fill(ctx context.Context, r *report) (err error) {
	net := &bus{}
	at := place{kind: b.store, dir: b.dirOf("a"), member: net.join()}
	if b.checkpoints {
		at.options = b.checkpointing
	}
	first, err := openReplica(at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	if err := b.loadOnce(ctx, first); err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	second, err := b.join(ctx, net, first)
	if err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	defer func() { err = errors.Join(err, second.Close()) }()
	r.diskA, r.diskB = diskUsage(first.dir), diskUsage(second.dir)
	if r.sampled, err = b.verify(ctx, first, second); err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	return nil
}
