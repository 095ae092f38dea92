// Command soak runs replicas over libp2p for any length of time, each in a process of
// its own, while they are killed, closed, frozen, cut off from each other and started
// again at random, and all of them write. Now and then it lets them come to rest, and
// then they must be equal, hold what was acknowledged, and take no more memory and
// handles than before. ../README.md says more.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	if dir := os.Getenv(replicaDir); dir != "" {
		exit(serve(dir, os.Args[1:]))
	}
	cfg, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), endSignals...)
	defer stop()
	exit(run(ctx, cfg, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run soaks, and keeps what the replicas left behind if something was wrong.
func run(ctx context.Context, cfg config, out io.Writer) error {
	if err := cfg.check(); err != nil {
		return err
	}
	remove, err := cfg.makeDir()
	if err != nil {
		return err
	}
	if err := soak(ctx, cfg, out); err != nil {
		return errors.Join(err, fmt.Errorf("logs, heap profiles and stores are in %s; repeat with -seed %d", cfg.dir, cfg.seed))
	}
	return remove()
}
