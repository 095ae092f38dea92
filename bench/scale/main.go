// Command scale measures how a replica bears a growing number of keys: it loads
// them into one replica on a real store on disk, has an empty second replica
// catch up with it, and opens the first one again. README.md says how to read
// what comes out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(start()) }

// start returns the exit code: 1 for a missed target or an error, 2 for wrong
// usage.
func start() int {
	c, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	// The first Ctrl-C ends the run in good order, so that the data goes away.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx, c, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
	}
	if err != nil || missed > 0 {
		return 1
	}
	return 0
}
