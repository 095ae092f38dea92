// Package interop checks that a replica of this module and one of the released module
// work together, each in its own process, over libp2p, and that both make the same of the
// same blocks.
package interop

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// kind is one of the two builds of the programs.
type kind struct {
	name    string
	modfile string
	tags    string
}

var (
	ours = kind{name: "ours", modfile: "go.mod"}
	old  = kind{name: "old", modfile: "old.mod", tags: "released"}
)

var programs string // directory of the built programs, with one below for each kind

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(buildAndRun{m},
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// buildAndRun runs the tests while the programs are there.
type buildAndRun struct{ *testing.M }

func (m buildAndRun) Run() int {
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	for _, k := range []kind{ours, old} {
		if err := k.build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.M.Run()
}

func (k kind) program(name string) string { return filepath.Join(programs, k.name, name) }

func (k kind) build() error {
	dir := filepath.Join(programs, k.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	out, err := exec.Command("go", "build", "-modfile="+k.modfile, "-tags="+k.tags, "-o", dir, "./peer", "./replay").CombinedOutput()
	if err != nil {
		return fmt.Errorf("building the %s programs: %w\n%s", k.name, err, out)
	}
	return nil
}
