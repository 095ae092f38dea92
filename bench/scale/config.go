package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"

	"github.com/dustin/go-humanize"
)

// A config is what the flags say.
type config struct {
	keys       int
	window     int
	shuffled   bool
	store      string
	memory     byteSize
	dir        string
	keep       string
	csv, svg   string
	plot       string
	raw        bool
	cpuProfile string
	memProfile string

	overwrites  int
	checkpoints bool
	every       int
}

func defaults() config {
	return config{keys: 10_000_000, window: 100_000, store: "pebble", memory: defaultMemory(), every: 1000}
}

// parse reads the flags. It has told the user what is wrong when it fails.
func parse(args []string, errOut io.Writer) (config, error) {
	c := defaults()
	set := flag.NewFlagSet("scale", flag.ContinueOnError)
	set.SetOutput(errOut)
	set.IntVar(&c.keys, "keys", c.keys, "how many `keys` to load")
	set.IntVar(&c.window, "window", c.window, "`keys` between two rows of the CSV file")
	set.BoolVar(&c.shuffled, "shuffled", false, "load the keys in no order, which is hard for a store")
	set.StringVar(&c.store, "store", c.store, "the `kind` of store: badger or pebble")
	set.TextVar(&c.memory, "memory", c.memory, "limit on the Go heap, such as 512MiB; GOMEMLIMIT if that is set")
	set.StringVar(&c.dir, "dir", "", "`directory` to make the stores in, which are removed at the end (default the system's for temporary files)")
	set.StringVar(&c.keep, "keep", "", "`directory` to load the first replica in, which stays; one that is there already is not loaded again")
	set.StringVar(&c.csv, "csv", "", "CSV `file` to write (default <store>.csv, with raw- and shuffled- before it if those are set)")
	set.StringVar(&c.svg, "svg", "", "SVG `file` to draw (default the CSV file's name with .svg)")
	set.StringVar(&c.plot, "plot", "", "only draw this CSV `file`")
	set.IntVar(&c.overwrites, "overwrites", c.overwrites, "how many `keys` to write again, at random, before anybody joins")
	set.BoolVar(&c.checkpoints, "checkpoints", c.checkpoints, "have the first replica make checkpoints, and drop what they cover")
	set.IntVar(&c.every, "every", c.every, "with -checkpoints, how many `batches` there are between those that nobody asks for; 0 makes only one, after the load")
	set.BoolVar(&c.raw, "raw", false, "write the same rows to the store alone, without a replica")
	set.StringVar(&c.cpuProfile, "cpuprofile", "", "write a CPU profile of each phase to `prefix`.<phase>")
	set.StringVar(&c.memProfile, "memprofile", "", "write a heap profile at the end of each phase to `prefix`.<phase>")
	if err := set.Parse(args); err != nil {
		return c, err
	}
	c.nameFiles()
	if err := c.check(set.Args()); err != nil {
		fmt.Fprintln(errOut, "scale:", err)
		return c, err
	}
	return c, nil
}

// nameFiles fills in names that do not overwrite the results of another kind
// of run.
func (c *config) nameFiles() {
	if c.csv == "" {
		c.csv = c.store + ".csv"
		if c.shuffled {
			c.csv = "shuffled-" + c.csv
		}
		if c.raw {
			c.csv = "raw-" + c.csv
		}
	}
	if c.svg == "" {
		c.svg = c.csv + ".svg"
		if c.plot != "" {
			c.svg = c.plot + ".svg"
		}
	}
}

func (c *config) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("what is %q? There are flags only", rest[0])
	case !slices.Contains(storeKinds(), c.store):
		return fmt.Errorf("-store is %q: it must be one of %v", c.store, storeKinds())
	case c.raw && c.keep != "":
		return errors.New("-keep is about a replica, and with -raw there is none")
	case c.keys < batchSize || c.window < batchSize:
		return fmt.Errorf("-keys and -window must be at least %d, the size of a batch", batchSize)
	}
	return nil
}

// A byteSize is a number of bytes that is written as in GOMEMLIMIT.
type byteSize int64

func (s byteSize) String() string               { return humanize.IBytes(uint64(s)) }
func (s byteSize) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s *byteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	*s = byteSize(n)
	return err
}

// defaultMemory is what GOMEMLIMIT says, if it is set, or else 1 GiB.
func defaultMemory() byteSize {
	if _, ok := os.LookupEnv("GOMEMLIMIT"); ok {
		return byteSize(debug.SetMemoryLimit(-1)) // changes nothing
	}
	return 1 << 30
}
