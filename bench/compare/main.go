// Command compare measures the module of this repository against the released one. It
// builds the program run against either, lets them run the same scenarios in turn, and
// prints what they found side by side. Run it in the directory of its module.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	pairs    int
	stores   []string
	filter   *regexp.Regexp
	quick    bool
	markdown bool
	check    bool
	json     string
	timeout  time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := parseFlags()
	if err == nil {
		err = c.compare(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

func parseFlags() (c config, err error) {
	flag.IntVar(&c.pairs, "pairs", 3, "how often either module runs every scenario")
	stores := flag.String("stores", "badger,pebble", "the `stores` to run on, separated by commas")
	filter := flag.String("run", "", "run the scenarios whose names match a `regexp` alone")
	flag.BoolVar(&c.quick, "quick", false, "one pair of much smaller runs: shows that everything works, and no more")
	flag.BoolVar(&c.markdown, "markdown", false, "print the tables as Markdown")
	flag.BoolVar(&c.check, "check", false, "fail when a target is missed")
	flag.StringVar(&c.json, "json", "", "write what every run found to a `file`")
	flag.DurationVar(&c.timeout, "timeout", 2*time.Minute, "kill a run that takes longer")
	flag.Parse()
	c.stores = strings.Split(*stores, ",")
	if c.quick {
		c.pairs = 1
	}
	if c.pairs < 1 {
		return c, errors.New("-pairs must be 1 at least")
	}
	c.filter, err = regexp.Compile(*filter)
	return c, err
}

func (c config) compare(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "crdt-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := build(ctx, dir)
	if err != nil {
		return err
	}
	scenarios, err := b.scenarios(ctx, c.filter)
	if err != nil {
		return err
	}
	outcomes, err := c.runAll(ctx, b, c.plan(scenarios))
	return errors.Join(err, c.report(outcomes))
}

func (c config) report(outcomes []outcome) error {
	tables := tabulate(withDerived(outcomes), c.targets())
	for _, t := range tables {
		fmt.Println(t.render(c.markdown))
	}
	errs := []error{failures(outcomes)}
	if c.json != "" {
		errs = append(errs, writeJSON(c.json, outcomes))
	}
	if c.check {
		errs = append(errs, missed(tables))
	}
	return errors.Join(errs...)
}

// targets are not for quick runs, which say nothing about speed.
func (c config) targets() []target {
	if c.quick {
		return nil
	}
	return targets
}
