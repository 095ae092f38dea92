package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

// config is what a run is asked for.
type config struct {
	length   time.Duration
	replicas int
	seed     uint64
	dir      string // "" is a temporary one
	keys     int    // about how many there are, all replicas together
	rate     int    // keys written a second, by each replica
	faults   time.Duration
	away     time.Duration
	calm     time.Duration
	settle   time.Duration
	wipes    int
	verbose  bool

	checkpointEvery int           // see crdt.Options
	keepHistory     time.Duration // see crdt.Options
}

func parse(args []string, errOut io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.DurationVar(&c.length, "for", 30*time.Minute, "how long to run")
	flags.IntVar(&c.replicas, "replicas", 5, "how many replicas there are")
	flags.Uint64Var(&c.seed, "seed", rand.Uint64(), "what is written and which faults come depend on it; by default another one each time")
	flags.StringVar(&c.dir, "dir", "", "an empty `directory` for stores and logs, which are kept; by default a temporary one, kept if something is wrong")
	flags.IntVar(&c.keys, "keys", 2000, "how many keys are written, about")
	flags.IntVar(&c.rate, "rate", 100, "how many keys a replica writes a second")
	flags.DurationVar(&c.faults, "faults", 2*time.Second, "the mean time between two faults")
	flags.DurationVar(&c.away, "away", 12*time.Second, "how long a cut lasts at most; a replica stays down for up to two thirds of that")
	flags.DurationVar(&c.calm, "calm", 2*time.Minute, "the time between two calm points")
	flags.DurationVar(&c.settle, "settle", 5*time.Minute, "how long the replicas may take to become equal at a calm point")
	flags.IntVar(&c.wipes, "wipes", 50_000, "empty a store at every third calm point until the history has so many `blocks`; a new replica has to get them all")
	flags.IntVar(&c.checkpointEvery, "checkpoint-every", 0, "after how many blocks a checkpoint is made; 0: never")
	flags.DurationVar(&c.keepHistory, "keep-history", 0, "how long a replica keeps what a checkpoint covers; 0: for ever")
	flags.BoolVar(&c.verbose, "v", false, "print every fault, and every replica's state in the progress")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return c, nil
}

func (c config) check() error {
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	require(c.length > 0, "-for is %v: it must be greater than 0", c.length)
	require(c.replicas >= 2, "-replicas is %d: it must be at least 2", c.replicas)
	require(c.keys >= 4*writersEach*c.replicas, "-keys is %d: with %d replicas it must be at least %d", c.keys, c.replicas, 4*writersEach*c.replicas)
	require(c.rate > 0, "-rate is %d: it must be at least 1", c.rate)
	require(c.faults > 0, "-faults is %v: it must be greater than 0", c.faults)
	require(c.away > time.Second, "-away is %v: it must be greater than 1s", c.away)
	require(c.calm > 0, "-calm is %v: it must be greater than 0", c.calm)
	require(c.checkpointEvery >= 0, "-checkpoint-every is %d: it must be 0 or more", c.checkpointEvery)
	require(c.keepHistory >= 0, "-keep-history is %v: it must be 0 or more", c.keepHistory)
	require(c.settle > 0, "-settle is %v: it must be greater than 0", c.settle)
	return errors.Join(errs...)
}

// replicaArgs are the arguments of a replica's process.
func (c config) replicaArgs() []string {
	return []string{fmt.Sprintf("-checkpoint-every=%d", c.checkpointEvery), fmt.Sprintf("-keep-history=%v", c.keepHistory)}
}

// makeDir makes the directory. It returns what to do with it after success.
func (c *config) makeDir() (after func() error, err error) {
	if c.dir == "" {
		c.dir, err = os.MkdirTemp("", "crdt-soak-")
		return func() error { return os.RemoveAll(c.dir) }, err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(c.dir); err != nil {
		return nil, err
	} else if len(entries) > 0 {
		return nil, fmt.Errorf("-dir %s is not empty", c.dir)
	}
	return func() error { return nil }, nil
}
