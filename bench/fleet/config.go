package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A config is what the flags say.
type config struct {
	sizes numbers // how many replicas
	rates numbers // writes a second, of all replicas together
	span  time.Duration
	quick bool
	out   string
	seed  uint64

	cpuProfile string
}

// parse reads the flags. It has told the user what is wrong when it fails.
func parse(args []string, errOut io.Writer) (config, error) {
	c := config{sizes: numbers{10, 50, 200, 500}, rates: numbers{1, 10, 100}, seed: 1}
	set := flag.NewFlagSet("fleet", flag.ContinueOnError)
	set.SetOutput(errOut)
	set.Var(&c.sizes, "n", "how many `replicas`, such as 10,50")
	set.Var(&c.rates, "rate", "`writes` a second, of all replicas together, such as 1,100")
	set.DurationVar(&c.span, "for", 0, "for how long they write, in fake `time` (default the longer the lower the rate)")
	set.BoolVar(&c.quick, "quick", false, "only 10 and 30 replicas with 10 writes a second for 5 s: shows that everything works")
	set.StringVar(&c.out, "out", "", "SVG `file` to draw the curves into")
	set.Uint64Var(&c.seed, "seed", c.seed, "`seed` of the network, and of who writes when")
	set.StringVar(&c.cpuProfile, "cpuprofile", "", "write a CPU profile to this `file`")
	if err := set.Parse(args); err != nil {
		return c, err
	}
	if c.quick {
		c.sizes, c.rates, c.span = numbers{10, 30}, numbers{10}, 5*time.Second
	}
	if err := c.check(set.Args()); err != nil {
		fmt.Fprintln(errOut, "fleet:", err)
		return c, err
	}
	return c, nil
}

func (c *config) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("what is %q? There are flags only", rest[0])
	}
	for _, n := range c.sizes {
		if n < 2 {
			return errors.New("-n must be at least 2")
		}
	}
	return nil
}

// A plan is one run.
type plan struct {
	replicas int
	rate     int // writes a second
	span     time.Duration
	seed     uint64
}

func (c *config) plan(replicas, rate int) plan {
	p := plan{replicas: replicas, rate: rate, span: c.span, seed: c.seed}
	if p.span == 0 {
		p.span = defaultSpan(rate)
	}
	return p
}

// defaultSpan is about what it takes to know the second half of the time from the first, and
// leaves a run of everything below ten minutes.
func defaultSpan(rate int) time.Duration {
	switch {
	case rate <= 1:
		return time.Minute
	case rate <= 10:
		return 30 * time.Second
	default:
		return 20 * time.Second
	}
}

// numbers is a flag with some of them.
type numbers []int

func (ns *numbers) String() string { return strings.Trim(fmt.Sprint([]int(*ns)), "[]") }

// Set implements flag.Value.
func (ns *numbers) Set(text string) error {
	*ns = nil
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err == nil && n < 1 {
			err = errors.New("must be at least 1")
		}
		if err != nil {
			return err
		}
		*ns = append(*ns, n)
	}
	return nil
}
