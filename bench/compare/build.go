package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// builds is where the two builds of the program run are, by the sides' names, and where
// they may put their files.
type builds struct{ dir string }

// modfiles say what each side is built with.
var modfiles = map[side]string{ours: "go.mod", theirs: "old.mod"}

func build(ctx context.Context, dir string) (builds, error) {
	b := builds{dir}
	for s, modfile := range modfiles {
		build := exec.CommandContext(ctx, "go", "build", "-modfile="+modfile, "-o", b.program(s), "./run")
		if out, err := build.CombinedOutput(); err != nil {
			return b, fmt.Errorf("building %s: %w\n%s", s, err, out)
		}
	}
	return b, nil
}

// program measures the bare store too, for which either would do.
func (b builds) program(s side) string {
	if s == bare {
		s = ours
	}
	return filepath.Join(b.dir, string(s))
}

// scenarios asks the program what there is.
func (b builds) scenarios(ctx context.Context, filter *regexp.Regexp) ([]result.Scenario, error) {
	out, err := exec.CommandContext(ctx, b.program(ours), "-list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the scenarios: %w", err)
	}
	var all []result.Scenario
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, err
	}
	matching := slices.DeleteFunc(all, func(s result.Scenario) bool { return !filter.MatchString(s.Name) })
	if len(matching) == 0 {
		return nil, fmt.Errorf("no scenario matches %s", filter)
	}
	return matching, nil
}
