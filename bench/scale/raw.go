package main

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	ds "github.com/ipfs/go-datastore"
)

// A raw writer does to the store what a replica does to it for a batch, without
// being one: it looks every key up, stores a block, and writes a record for each
// key and two rows for the block. What a replica takes longer is its own.
type raw struct {
	*bench
	store store

	lookup, block, rows time.Duration // in the store
}

func (b *bench) runRaw(ctx context.Context) (err error) {
	s, err := openStore(b.config.store, b.dirOf("raw"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r := &raw{bench: b, store: s}
	if err := r.load(ctx); err != nil {
		return err
	}
	sp := speedOf(b.table.rows, "raw")
	fmt.Fprintf(b.out, "\nraw    %s\n", sp)
	fmt.Fprintf(b.out, "       looking up %s, blocks %s, rows %s\n", round(r.lookup), round(r.block), round(r.rows))
	fmt.Fprintf(b.out, "disk   %s\n", humanize.IBytes(diskUsage(b.dirOf("raw"))))
	return plotRows(b.table.rows, b.svg)
}

func (r *raw) load(ctx context.Context) error {
	end, err := r.profile("raw")
	if err != nil {
		return err
	}
	m := r.meter("raw", r.keys, r.dirOf("raw"))
	err = r.batches(func(from, to int) error {
		if err := r.write(ctx, from, to); err != nil {
			return err
		}
		m.add(to - from)
		return nil
	})
	return errors.Join(err, m.stop(), end())
}

func (r *raw) write(ctx context.Context, from, to int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	block, id := r.makeBlock(from, to)
	begun := time.Now()
	for i := from; i < to; i++ {
		if _, err := r.store.Get(ctx, r.record(i)); !errors.Is(err, ds.ErrNotFound) {
			return fmt.Errorf("%s should not be there: %w", r.key(i), err)
		}
	}
	r.lookup += time.Since(begun)

	begun = time.Now()
	if err := r.store.Put(ctx, ds.RawKey("/blocks/"+id), block); err != nil {
		return err
	}
	r.block += time.Since(begun)

	begun = time.Now()
	defer func() { r.rows += time.Since(begun) }()
	return r.writeRows(ctx, from, to, id)
}

// writeRows writes records with headers of the right size.
func (r *raw) writeRows(ctx context.Context, from, to int, id string) error {
	batch, err := r.store.Batch(ctx)
	if err != nil {
		return err
	}
	head := make([]byte, 41)
	var errs []error
	for i := from; i < to; i++ {
		errs = append(errs, batch.Put(ctx, r.record(i), append(head[:len(head):len(head)], value(i)...)))
	}
	errs = append(errs,
		batch.Put(ctx, ds.RawKey("/crdt/b/"+id), nil),
		batch.Put(ctx, ds.RawKey("/crdt/h/"+id), []byte{1}))
	return errors.Join(append(errs, batch.Commit(ctx))...)
}

func (r *raw) record(i int) ds.Key { return ds.RawKey("/crdt/s/r" + r.key(i).String()) }

// makeBlock returns as many bytes as a block has, and their name.
func (r *raw) makeBlock(from, to int) (block []byte, id string) {
	for i := from; i < to; i++ {
		block = append(block, "........"...) // where a delta has tags and sizes
		block = append(block, r.key(i).String()...)
		block = append(block, value(i)...)
	}
	hash := sha256.Sum256(block)
	return block, base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hash[:])
}
