// Command mutants breaks one rule of the library at a time, and sees whether the
// simulation finds out.
//
//	go run ./docs/models/mutants [-seeds N] [-first N] [-run REGEXP] [NAME...]
//
// list.txt has the mutants: most are those of docs/models/checkpoint_pages.py, made in the
// Go code. Each is built beside the tree, which is left alone, and goes through the seeds
// up to the first that fails, or through the test that the list names. The exit status is 1
// if one is missed.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

var (
	seeds = flag.Int("seeds", 1000, "how many seeds of the simulation each mutant goes through")
	first = flag.Int("first", 0, "the first of them")
	tests = flag.String("run", "", "the tests that are to catch it, in the place of those that the list names")
	root  = flag.String("root", ".", "where the library is")
)

func main() {
	flag.Parse()
	mutants, err := parse(list)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	missed := 0
	for _, m := range mutants {
		if names := flag.Args(); len(names) == 0 && m.by == "nothing" || len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		}
		begun := time.Now()
		how, caught := m.try(*root)
		if !caught {
			missed++
		}
		fmt.Printf("%s: %s (%s)\n", m.name, how, time.Since(begun).Round(time.Second))
	}
	if missed > 0 {
		fmt.Printf("%d missed\n", missed)
		os.Exit(1)
	}
}
