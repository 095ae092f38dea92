package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"text/tabwriter"
	"time"
)

// patience bounds every wait of the demo, so that it fails with a sentence
// instead of hanging. All of it takes a fraction of that.
const patience = 30 * time.Second

// converge waits until the replicas have the same heads, calling tick all the
// while. Nobody may be writing.
func (d *demo) converge(ctx context.Context, tick func(), nodes ...*node) error {
	ctx, cancel := patiently(ctx, "the replicas have not caught up with each other")
	defer cancel()
	return await(ctx, func() bool {
		tick()
		heads := nodes[0].heads(ctx)
		return len(heads) > 0 && !slices.ContainsFunc(nodes[1:], func(n *node) bool {
			return !slices.Equal(heads, n.heads(ctx))
		})
	})
}

// patiently bounds a wait; complaint is the error when the time is up.
func patiently(ctx context.Context, complaint string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s after %s", complaint, patience))
}

// agreed is what all three replicas hold, or an error if they do not hold the
// same: every key and value is compared.
func (d *demo) agreed(ctx context.Context) (snapshot, error) {
	if _, err := d.agreedBy(ctx, "alice", d.alice, "bob", d.bob); err != nil {
		return nil, err
	}
	same, err := d.agreedBy(ctx, "alice", d.alice, "carol", d.carol)
	if err == nil {
		d.say("compared key by key: alice, bob and carol hold the same %s pairs", thousands(len(same)))
	}
	return same, err
}

func (d *demo) agreedBy(ctx context.Context, nameA string, a *node, nameB string, b *node) (snapshot, error) {
	inA, err := takeSnapshot(ctx, a.replica)
	if err != nil {
		return nil, err
	}
	inB, err := takeSnapshot(ctx, b.replica)
	if err != nil {
		return nil, err
	}
	return inA, mustEqual(nameA, inA, nameB, inB)
}

// showEdits shows the edits with a title: either side before, everybody after.
func (d *demo) showEdits() {
	t := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  LEFT | RIGHT\tKEY\tALICE AND BOB HELD\tCAROL HELD\tNOW ALL THREE HOLD")
	for _, e := range d.edits {
		if e.title != "" {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", e.title, e.key, d.left.show(e.key), d.right.show(e.key), d.after.show(e.key))
		}
	}
	_ = t.Flush()
}

func (d *demo) close() error {
	var errs []error
	for _, n := range []*node{d.alice, d.bob, d.carol, d.dave} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

func (d *demo) title(format string, args ...any) { fmt.Fprintf(d.out, "\n"+format+"\n", args...) }
func (d *demo) say(format string, args ...any)   { fmt.Fprintf(d.out, "  "+format+"\n", args...) }

func (d *demo) rate(did string, keys int, took time.Duration) {
	d.say("%s %s keys in %.1f s: %s keys/s", did, thousands(keys), took.Seconds(),
		thousands(int(float64(keys)/took.Seconds())))
}

func withoutErrors(pairs []pair) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		for _, p := range pairs {
			if !yield(p, nil) {
				return
			}
		}
	}
}
