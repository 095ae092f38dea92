package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets a test run the program itself, by starting the test binary
// with GLOBALDB_RUN set.
func TestMain(m *testing.M) {
	if os.Getenv("GLOBALDB_RUN") != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m,
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

func program(t *testing.T, args ...string) (cmd *exec.Cmd, notes *lockedBuffer) {
	cmd, notes = exec.CommandContext(t.Context(), os.Args[0], args...), &lockedBuffer{}
	cmd.Env = append(os.Environ(), "GLOBALDB_RUN=1")
	cmd.Stderr = notes
	return cmd, notes
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{local(dir, "put", "k", "v"), 0, ""},
		{local(dir, "get", "k"), 0, ""},
		{local(dir, "get", "nothing"), 1, "there is no key /nothing"},
		{[]string{"-h"}, 0, "globaldb demo"},
		{[]string{"list"}, 2, "-data is missing"},
		{[]string{"-data", dir, "demo"}, 2, "demo takes no arguments"},
		{[]string{"-nonsense"}, 2, "flag provided but not defined"},
	} {
		cmd, notes := program(t, test.args...)
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.code || !strings.Contains(notes.String(), test.says) {
			t.Errorf("%q exits with %d and says %q; want %d and %q", test.args, got, notes, test.code, test.says)
		}
	}
}

func TestInterruptEndsSessionCleanly(t *testing.T) {
	cmd, notes := program(t, local(t.TempDir())...)
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	must(t, cmd.Start())
	waitFor(t, "the session to start", func() bool { return strings.Contains(notes.String(), "-connect") })
	must(t, cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the program ends with %v and says %q", err, notes)
	}
}

func TestDemo(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out, bars bytes.Buffer
	if err := runDemo(t.Context(), &out, &bars, unicodeTable('─', '⟿')); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, promise := range []string{
		"alice, bob and carol hold the same", "dialling alice fails", "NOW ALL THREE HOLD", "pairs on disk",
		"alice and dave hold the same",
	} {
		if !strings.Contains(out.String(), promise) {
			t.Errorf("the demo does not say %q:\n%s", promise, &out)
		}
	}
	if !strings.Contains(bars.String(), "keys/s") {
		t.Errorf("no progress was shown: %q", &bars)
	}
	mustBeEmpty(t, tmp)
}

func TestDemoCleansUpWhenInterrupted(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &trigger{at: "All three connect", do: cancel}
	if err := runDemo(ctx, out, &bytes.Buffer{}, unicodeTable('─', '⟿')); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted demo ends with %v", err)
	}
	mustBeEmpty(t, tmp)
}

func TestDemoNoticesDifference(t *testing.T) {
	d := &demo{out: &bytes.Buffer{}, dir: t.TempDir()}
	defer func() { must(t, d.close()) }()
	must(t, d.start(t.Context()))
	must(t, d.carol.replica.Put(t.Context(), mustKey(t, "/odd"), []byte("one out")))
	_, err := d.agreed(t.Context())
	want := `alice and carol differ in 1 keys, the first being /odd: alice has nothing, carol has "one out"`
	if err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

func TestCutOffKeepsChangesOut(t *testing.T) {
	d := &demo{out: &bytes.Buffer{}, dir: t.TempDir()}
	defer func() { must(t, d.close()) }()
	ctx := t.Context()
	for _, act := range []func(context.Context) error{d.start, d.joinAll, d.cutOffCarol} {
		must(t, act(ctx))
	}
	must(t, d.alice.replica.Put(ctx, mustKey(t, "/news"), []byte("for bob alone")))
	must(t, d.converge(ctx, func() {}, d.alice, d.bob))
	if held, err := takeSnapshot(ctx, d.carol.replica); err != nil || len(held) > 0 {
		t.Fatalf("carol is cut off and holds %v (%v)", held, err)
	}
	must(t, d.carol.join(ctx, d.alice))
	must(t, d.converge(ctx, func() {}, d.alice, d.bob, d.carol))
	_, err := d.agreed(ctx)
	must(t, err)
}
