package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// list holds the mutants, in paragraphs:
//
//	name: the rule that it breaks
//	by TestOfThisRule
//	file.go
//	 a line that stays
//	-a line that goes
//	+a line that comes
//
// A file is named for each place that is edited. The lines that stay and go must be in it
// once. A test is named if the simulation never comes upon what the rule is about, or too
// rarely, and "by nothing" stands there if breaking the rule comes to the same: such a mutant
// runs only if it is asked for. A line that begins with # is a comment.
//
//go:embed list.txt
var list string

type mutant struct {
	name  string
	by    string // the test that is to catch it, or "nothing"
	edits []*edit
}

// An edit replaces whole lines.
type edit struct {
	file     string
	old, new strings.Builder
}

func parse(list string) (mutants []*mutant, err error) {
	var m *mutant
	var e *edit
	for n, line := range strings.Split(list, "\n") {
		switch name, _, named := strings.Cut(line, ": "); {
		case line == "" || line[0] == '#':
		case strings.ContainsRune(" -+", rune(line[0])) && e != nil:
			e.add(line[0], line[1:]+"\n")
		case strings.HasPrefix(line, "by ") && m != nil:
			m.by = line[len("by "):]
		case strings.HasSuffix(line, ".go") && m != nil:
			e = &edit{file: line}
			m.edits = append(m.edits, e)
		case named:
			m, e = &mutant{name: name, by: "TestSimulation"}, nil
			mutants = append(mutants, m)
		default:
			return nil, fmt.Errorf("line %d of the list cannot be read: %q", n+1, line)
		}
	}
	return mutants, nil
}

func (e *edit) add(kind byte, line string) {
	if kind != '+' {
		e.old.WriteString(line)
	}
	if kind != '-' {
		e.new.WriteString(line)
	}
}

// apply returns the files that a mutant has in the place of those below root.
func (m *mutant) apply(root string) (files map[string]string, err error) {
	files = make(map[string]string)
	for _, e := range m.edits {
		path := filepath.Join(root, e.file)
		if files[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			files[path] = "\n" + string(text)
		}
		old := "\n" + e.old.String()
		if n := strings.Count(files[path], old); n != 1 {
			return nil, fmt.Errorf("%s is found %d times in %s:%s", m.name, n, e.file, old)
		}
		files[path] = strings.Replace(files[path], old, "\n"+e.new.String(), 1)
	}
	return files, nil
}

// try builds a mutant and runs the tests. It says by what it was caught, if it was.
func (m *mutant) try(root string) (how string, caught bool) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return err.Error(), false
	}
	defer os.RemoveAll(dir)
	if err := m.build(root, dir); err != nil {
		return err.Error(), false
	}
	run := exec.Command(filepath.Join(dir, "test"), "-test.run="+cmp.Or(*tests, "^"+m.by+"$"), "-test.failfast", "-test.timeout=0",
		fmt.Sprintf("-sim.n=%d", *seeds), fmt.Sprintf("-sim.first=%d", *first))
	run.Dir = root
	out, err := run.CombinedOutput()
	if err == nil {
		return "MISSED", false
	}
	return verdict(string(out)), true
}

var (
	aSeed  = regexp.MustCompile(`-sim\.seed=\d+`)
	aTest  = regexp.MustCompile(`--- FAIL: \w+`)
	aCause = regexp.MustCompile(`(?m)^    \w+\.go:\d+: (?:.*)|^panic: .*`)
)

// verdict says which seed or test failed, and why.
func verdict(out string) string {
	by := aSeed.FindString(out)
	if by == "" {
		by = aTest.FindString(out)
	}
	return fmt.Sprintf("caught by %s: %.200s", by, strings.TrimSpace(aCause.FindString(out)))
}

// build makes a test binary of a mutant in a directory.
func (m *mutant) build(root, dir string) error {
	files, err := m.apply(root)
	if err != nil {
		return err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for path, text := range files {
		mine := filepath.Join(dir, filepath.Base(path))
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		if err := os.WriteFile(mine, []byte(text), 0o600); err != nil {
			return err
		}
		overlay.Replace[path] = mine
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(config, b, 0o600); err != nil {
		return err
	}
	build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", config, "-o", filepath.Join(dir, "test"), ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("it does not build: %s", out)
	}
	return nil
}
