package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/host"
)

// demo is a play with three replicas in one process. Each one is a libp2p host
// of its own, so they share nothing but what goes through the sockets.
type demo struct {
	out   io.Writer // the story
	bars  io.Writer // progress bars
	dir   string    // one folder below it for each replica
	table []pair    // what is imported

	alice, bob, carol *node
	dave              *node        // comes last
	caughtUp          atomic.Int64 // pairs that bob and carol have merged

	edits       []edit
	before      snapshot // what all three held before the cut
	left, right snapshot // what either side held at the end of it
	after       snapshot // what all three held once it was healed
}

// runDemo plays all acts in a temporary folder. It returns an error when
// anything is not as the story says.
func runDemo(ctx context.Context, out, bars io.Writer, table []pair) (err error) {
	dir, err := os.MkdirTemp("", "globaldb-demo-")
	if err != nil {
		return err
	}
	edits := showcase()
	d := &demo{out: out, bars: bars, dir: dir, table: table, edits: append(edits, bulkEdits(table, edits)...)}
	defer func() { err = errors.Join(err, d.close(), os.RemoveAll(dir)) }()

	for _, act := range []func(context.Context) error{
		d.start, d.importTable, d.catchUp, d.cutOffCarol, d.writeApart, d.sidesDiffer, d.healNetwork, d.restartCarol, d.welcomeCarol,
		d.rewriteOften, d.dropHistory, d.welcomeDave,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) start(context.Context) (err error) {
	d.title("Three replicas, each a libp2p host on its own Badger store below %s", d.dir)
	count := func(ds.Key, []byte) { d.caughtUp.Add(1) }
	if d.alice, err = d.open("alice", nil); err != nil {
		return err
	}
	if d.bob, err = d.open("bob", count); err != nil {
		return err
	}
	d.carol, err = d.open("carol", count)
	return err
}

func (d *demo) open(name string, onPut func(ds.Key, []byte)) (*node, error) {
	n, err := openNode(settings{
		dir:         filepath.Join(d.dir, name),
		listen:      "/ip4/127.0.0.1/tcp/0",
		rebroadcast: 500 * time.Millisecond, // the acts are short, so news must travel fast
		onPut:       onPut,
	})
	if err != nil {
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	d.say("%-5s %s", name, n.addresses()[0])
	return n, nil
}

func (d *demo) importTable(ctx context.Context) error {
	d.title("Alice, still alone, imports %s Unicode character names", thousands(len(d.table)))
	bar := newBar(d.bars, "import  ", len(d.table))
	start := time.Now()
	err := writePairs(ctx, d.alice.replica, withoutErrors(d.table), func(n int) { _ = bar.Add(n) })
	if err != nil {
		return fmt.Errorf("the import fails: %w", err)
	}
	_ = bar.Finish()
	d.rate("imported", len(d.table), time.Since(start))
	return nil
}

func (d *demo) catchUp(ctx context.Context) error {
	d.title("All three connect; bob and carol catch up")
	total := 2 * len(d.table)
	bar := newBar(d.bars, "catch up", total)
	start := time.Now()
	if err := d.joinAll(ctx); err != nil {
		return err
	}
	err := d.converge(ctx, func() { _ = bar.Set64(min(d.caughtUp.Load(), int64(total))) }, d.alice, d.bob, d.carol)
	if err != nil {
		return err
	}
	_ = bar.Finish()
	d.rate("caught up", total, time.Since(start))
	d.before, err = d.agreed(ctx)
	if err == nil && len(d.before) != len(d.table) {
		err = fmt.Errorf("%d pairs were imported, but the replicas hold %d", len(d.table), len(d.before))
	}
	return err
}

func (d *demo) joinAll(ctx context.Context) error {
	return errors.Join(d.bob.join(ctx, d.alice), d.carol.join(ctx, d.alice, d.bob))
}

func (d *demo) cutOffCarol(ctx context.Context) error {
	d.title("Carol is cut off: connections closed, new ones refused")
	if err := d.carol.cutOff(d.alice, d.bob); err != nil {
		return err
	}
	ctx, cancel := patiently(ctx, "carol still has connections")
	defer cancel()
	if err := await(ctx, func() bool { return len(d.carol.host.Network().Peers()) == 0 }); err != nil {
		return err
	}
	if d.carol.dial(ctx, *host.InfoFromHost(d.alice.host)) == nil {
		return errors.New("carol is cut off, and reaches alice all the same")
	}
	d.say("carol has no connection left, and dialling alice fails")
	return nil
}

func (d *demo) writeApart(ctx context.Context) error {
	d.title("Both sides write: alice puts and bob deletes on the left, carol does both on the right")
	err := errors.Join(
		apply(ctx, d.alice.replica, d.edits, only(put, leftSide)),
		apply(ctx, d.bob.replica, d.edits, only(del, leftSide)),
		apply(ctx, d.carol.replica, d.edits, rightSide),
	)
	if err != nil {
		return fmt.Errorf("a write fails while the network is split: %w", err)
	}
	return d.converge(ctx, func() {}, d.alice, d.bob)
}

// sidesDiffer takes down what either side holds just before healing.
func (d *demo) sidesDiffer(ctx context.Context) (err error) {
	if d.left, err = d.agreedBy(ctx, "alice", d.alice, "bob", d.bob); err != nil {
		return err
	}
	if d.right, err = takeSnapshot(ctx, d.carol.replica); err != nil {
		return err
	}
	differing := len(d.left.differences(d.right))
	d.say("alice and bob hold %s pairs, carol holds %s; they differ in %s keys",
		thousands(len(d.left)), thousands(len(d.right)), thousands(differing))
	if differing == 0 {
		return errors.New("both sides hold the same, though they wrote apart")
	}
	return nil
}

func (d *demo) healNetwork(ctx context.Context) (err error) {
	d.title("The network heals")
	if err := d.carol.join(ctx, d.alice, d.bob); err != nil {
		return err
	}
	if err := d.converge(ctx, func() {}, d.alice, d.bob, d.carol); err != nil {
		return err
	}
	if d.after, err = d.agreed(ctx); err != nil {
		return err
	}
	d.showEdits()
	return checkMerge(d.before, d.after, d.edits)
}

func (d *demo) restartCarol(ctx context.Context) error {
	d.title("Carol restarts, at first without any connection")
	id := d.carol.host.ID()
	if err := d.reopenCarol(); err != nil {
		return err
	}
	if d.carol.host.ID() != id {
		return fmt.Errorf("carol was %s and is %s after the restart", id, d.carol.host.ID())
	}
	fromDisk, err := takeSnapshot(ctx, d.carol.replica)
	if err != nil {
		return err
	}
	d.say("same peer id, and %s pairs on disk", thousands(len(fromDisk)))
	return mustEqual("carol before the restart", d.after, "carol after it", fromDisk)
}

func (d *demo) reopenCarol() (err error) {
	if err := d.carol.Close(); err != nil {
		return fmt.Errorf("carol does not stop: %w", err)
	}
	d.carol, err = d.open("carol", nil)
	return err
}

func (d *demo) welcomeCarol(ctx context.Context) error {
	d.title("Carol connects again and writes one more pair")
	if err := d.carol.join(ctx, d.alice, d.bob); err != nil {
		return err
	}
	if err := d.carol.replica.Put(ctx, ds.NewKey("/notes/back"), []byte("carol is back")); err != nil {
		return err
	}
	if err := d.converge(ctx, func() {}, d.alice, d.bob, d.carol); err != nil {
		return err
	}
	_, err := d.agreed(ctx)
	return err
}
