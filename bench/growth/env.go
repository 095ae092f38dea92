package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/bench/bed"
)

// env is what a scenario runs in, and takes down what it found.
type env struct {
	ctx     context.Context
	kind    string // of the stores
	quick   bool
	dir     string
	stores  int
	closers []func() error
	figures []figure
}

// A figure is something measured, and the most that it should be; 0: whatever it is.
type figure struct {
	name        string
	value, most float64
	unit        string
}

func (f figure) isMet() bool { return f.most == 0 || f.value <= f.most }

func (e *env) found(name string, value, most float64, unit string) {
	e.figures = append(e.figures, figure{name, value, most, unit})
}

// size is n, or a twentieth of it in a quick run.
func (e *env) size(n int) int {
	if e.quick {
		return n / 20
	}
	return n
}

// inDir runs a scenario in a directory of its own, and closes what it has opened.
func (e *env) inDir(run func() error) (err error) {
	if e.dir, err = os.MkdirTemp("", "crdt-growth-"); err != nil {
		return err
	}
	return errors.Join(run(), e.close(), os.RemoveAll(e.dir))
}

func (e *env) onClose(f func() error) { e.closers = append(e.closers, f) }

func (e *env) close() (err error) {
	for i := len(e.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, e.closers[i]())
	}
	e.closers = nil
	return err
}

// A replica is one with what it stands on.
type replica struct {
	*crdt.Datastore
	store ds.Batching
	dag   *bed.DAG
	radio *bed.Station // of one that says nothing
}

// open opens a replica on an empty store. It hears what it is told, and says nothing.
func (e *env) open(dag *bed.DAG, change func(*crdt.Options)) (*replica, error) {
	radio := bed.NewStation(bed.Silent)
	r, err := e.openAt(dag, radio, change)
	if err == nil {
		r.radio = radio
	}
	return r, err
}

func (e *env) openAt(dag *bed.DAG, bcast crdt.Broadcaster, change func(*crdt.Options)) (*replica, error) {
	e.stores++
	store, err := bed.OpenStore(e.kind, filepath.Join(e.dir, strconv.Itoa(e.stores)))
	if err != nil {
		return nil, err
	}
	e.onClose(store.Close)
	opts := crdt.DefaultOptions()
	change(opts)
	d, err := crdt.New(store, ds.NewKey("/crdt"), dag, bcast, opts)
	if err != nil {
		return nil, err
	}
	e.onClose(d.Close)
	return &replica{Datastore: d, store: store, dag: dag}, nil
}

// weight is what a replica keeps.
type weight struct {
	rows       int
	rowBytes   int64 // of names and values
	blocks     int
	blockBytes int64
}

func (r *replica) weigh(ctx context.Context) (w weight, err error) {
	results, err := r.store.Query(ctx, query.Query{})
	if err != nil {
		return w, err
	}
	defer results.Close()
	for entry := range results.Next() {
		if entry.Error != nil {
			return w, entry.Error
		}
		w.rows++
		w.rowBytes += int64(len(entry.Key) + len(entry.Value))
	}
	w.blocks, w.blockBytes = r.dag.Weight()
	return w, nil
}

// orMore is the greater of both in each respect.
func (w weight) orMore(o weight) weight {
	return weight{max(w.rows, o.rows), max(w.rowBytes, o.rowBytes), max(w.blocks, o.blocks), max(w.blockBytes, o.blockBytes)}
}

func (e *env) print(to io.Writer) {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, f := range e.figures {
		most := ""
		if f.most > 0 {
			most = fmt.Sprintf("at most %.4g\t%v", f.most, map[bool]string{true: "yes", false: "NO"}[f.isMet()])
		}
		fmt.Fprintf(out, "%s\t%.4g\t%s\t%s\t\n", f.name, f.value, f.unit, most)
	}
	_ = out.Flush() // to standard output
}
