// Package interop checks that a replica of this module and one of the released module
// work together, each in its own process, over libp2p.
package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// kind is one of the two builds of the peer command.
type kind struct {
	name    string
	modfile string
}

var (
	ours = kind{name: "ours", modfile: "go.mod"}
	old  = kind{name: "old", modfile: "old.mod"}
)

var programs string // directory of the built peers, one per kind

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
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
	return m.Run()
}

func (k kind) program() string { return filepath.Join(programs, k.name) }

func (k kind) build() error {
	out, err := exec.Command("go", "build", "-modfile="+k.modfile, "-o", k.program(), "./peer").CombinedOutput()
	if err != nil {
		return fmt.Errorf("building the %s peer: %w\n%s", k.name, err, out)
	}
	return nil
}
