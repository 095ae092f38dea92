// Command fleet measures many replicas over a wide-area network, both in one process: the
// network is simulated, and time is fake. README.md says what it does and how to read what
// comes out.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"testing"
)

func main() {
	c, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		os.Exit(2)
	}
	inTest(func(t *testing.T) error {
		return profiled(c.cpuProfile, func() error { return measureAll(t, c, os.Stdout, os.Stderr) })
	})
}

// inTest calls f inside a test, since fake time is only to be had in one, and ends the program.
func inTest(f func(*testing.T) error) {
	os.Args = os.Args[:1] // the flags are not those of a test
	testing.Main(
		func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "fleet", F: func(t *testing.T) {
			if err := f(t); err != nil {
				fmt.Fprintln(os.Stderr, "fleet:", err)
				os.Exit(1)
			}
			os.Exit(0) // before the test says that it has passed
		}}}, nil, nil)
}

// profiled calls f, and writes a profile of it unless there is no name for that.
func profiled(name string, f func() error) error {
	if name == "" {
		return f()
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(err, file.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, file.Close())
}

// measureAll makes a run for each size and rate, and tells of them as a table and as curves.
func measureAll(t *testing.T, c config, out, progress io.Writer) error {
	var rows []row
	for _, n := range c.sizes {
		for _, rate := range c.rates {
			r, err := measure(t, c.plan(n, rate))
			if err != nil {
				return fmt.Errorf("%d replicas, %d writes a second: %w", n, rate, err)
			}
			fmt.Fprintln(progress, r)
			rows = append(rows, r)
		}
	}
	printTables(out, rows)
	if c.out == "" {
		return nil
	}
	return plotRows(rows, c.out)
}
