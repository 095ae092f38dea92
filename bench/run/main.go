// Command run measures one scenario on one store, in a fresh temporary directory, and
// prints what it found as JSON. It fails when the replicas do not hold what they should
// at the end. It is built twice from the same source: with go.mod against the module of
// this repository, with old.mod against the released one. So it may use only what both
// export.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/ipfs/go-ds-crdt/bench/bed"
	"github.com/ipfs/go-ds-crdt/bench/result"
	"github.com/ipfs/go-log/v2"
)

func main() {
	list := flag.Bool("list", false, "print all scenarios as JSON, and measure nothing")
	name := flag.String("scenario", "", "the `name` of what to measure")
	store := flag.String("store", bed.Badger, "badger, pebble or map")
	raw := flag.Bool("raw", false, "measure the bare store, without a replica")
	quick := flag.Bool("quick", false, "measure much less")
	profile := flag.String("cpuprofile", "", "write a CPU profile of the scenario to a `file`")
	flag.Parse()
	log.SetAllLoggers(log.LevelFatal)

	var err error
	if *list {
		err = printJSON(descriptions())
	} else {
		err = run(*name, env{kind: *store, raw: *raw, quick: *quick, profile: *profile})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, e env) error {
	s, err := find(name)
	if err != nil {
		return err
	}
	if e.raw && !s.raw {
		return fmt.Errorf("%s is not for a bare store", name)
	}
	if err := measure(s, &e); err != nil {
		return fmt.Errorf("%s on %s: %w", name, e.kind, err)
	}
	return printJSON(result.Measured{Scenario: name, Store: e.kind, Metrics: e.metrics})
}

func measure(s scenario, e *env) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	e.ctx = ctx
	if e.dir, err = os.MkdirTemp("", "crdt-bench-"); err != nil {
		return err
	}
	err = profiled(e.profile, func() error { return s.run(e) })
	return errors.Join(err, e.close(), os.RemoveAll(e.dir))
}

func printJSON(v any) error {
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(v)
}
