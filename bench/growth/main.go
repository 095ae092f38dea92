// Command growth measures what a history costs whose keys are written again and again,
// with and without checkpoints. It fails when a figure is worse than it should be, or
// when replicas do not hold what they should.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"github.com/ipfs/go-ds-crdt/bench/bed"
	"github.com/ipfs/go-log/v2"
)

// scenarios are all there are.
var scenarios = []struct {
	name string
	run  func(*env) error
}{
	{"overwrites", overwrites},
	{"forever", forever},
	{"twenty", twenty},
	{"fold", fold},
	{"beside", beside},
}

func main() {
	name := flag.String("scenario", "", "the `name` of the only one to run: overwrites, forever, twenty, fold or beside")
	store := flag.String("store", bed.Pebble, "badger or pebble")
	quick := flag.Bool("quick", false, "measure much less, and fail for no figure")
	flag.Parse()
	log.SetAllLoggers(log.LevelFatal)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := runAll(ctx, *name, *store, *quick); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, name, store string, quick bool) error {
	known := false
	missed := 0
	for _, s := range scenarios {
		if name != "" && s.name != name {
			continue
		}
		known = true
		e := &env{ctx: ctx, kind: store, quick: quick}
		fmt.Printf("%s on %s\n", s.name, store)
		err := e.inDir(func() error { return s.run(e) })
		if err != nil {
			return fmt.Errorf("%s on %s: %w", s.name, store, err)
		}
		e.print(os.Stdout)
		missed += len(slices.DeleteFunc(e.figures, figure.isMet))
	}
	switch {
	case !known:
		return fmt.Errorf("there is no scenario %q", name)
	case missed > 0 && !quick:
		return errors.New("some figures are worse than they should be")
	}
	return nil
}
