package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// small is a run of 20,000 keys, a row for every 1,000.
func small(t *testing.T, store string) config {
	dir := t.TempDir()
	c := defaults()
	c.keys, c.window, c.store, c.dir = 20_000, 1_000, store, filepath.Join(dir, "data")
	c.csv, c.svg = filepath.Join(dir, "out.csv"), filepath.Join(dir, "out.svg")
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

func runSmall(t *testing.T, c config) string {
	t.Helper()
	var out bytes.Buffer
	if _, err := run(t.Context(), c, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReplicas(t *testing.T) {
	for _, store := range storeKinds() {
		t.Run(store, func(t *testing.T) {
			c := small(t, store)
			checkSummary(t, runSmall(t, c))
			rows := readAll(t, c.csv)
			checkPhase(t, c, rows, "load")
			checkPhase(t, c, rows, "join")
			checkSVG(t, c.svg)
			checkEmpty(t, c.dir)
		})
	}
}

func TestOverwritesWithCheckpoints(t *testing.T) {
	c := small(t, "pebble")
	c.overwrites, c.checkpoints = 10_000, true
	out := runSmall(t, c)
	checkSummary(t, out)
	if !strings.Contains(out, "30 blocks") {
		t.Errorf("not all blocks were dropped:\n%s", out)
	}
}

func TestJoinsOneThatIsKept(t *testing.T) {
	c := small(t, "pebble")
	c.overwrites, c.checkpoints = 10_000, true
	c.keep = filepath.Join(t.TempDir(), "kept")
	runSmall(t, c)
	out := runSmall(t, c)
	if !strings.Contains(out, "kept from an earlier run") {
		t.Errorf("it was loaded again:\n%s", out)
	}
	checkSummary(t, out)
	checkPhase(t, c, readAll(t, c.csv), "join")
	checkEmpty(t, c.dir)
}

func TestRefusesOneThatWasCutOff(t *testing.T) {
	c := small(t, "pebble")
	c.keep = filepath.Join(t.TempDir(), "kept")
	runSmall(t, c)
	if err := os.Remove(filepath.Join(c.keep, "loaded")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), c, io.Discard); err == nil || !strings.Contains(err.Error(), c.keep) {
		t.Errorf("got %v", err)
	}
}

func TestRaw(t *testing.T) {
	for _, store := range storeKinds() {
		t.Run(store, func(t *testing.T) {
			c := small(t, store)
			c.raw = true
			if out := runSmall(t, c); !strings.Contains(out, "looking up") {
				t.Errorf("no times in the summary:\n%s", out)
			}
			checkPhase(t, c, readAll(t, c.csv), "raw")
			checkEmpty(t, c.dir)
		})
	}
}

func TestPlotOfFile(t *testing.T) {
	c := small(t, "badger")
	runSmall(t, c)
	c.plot, c.svg = c.csv, c.csv+".again.svg"
	runSmall(t, c)
	checkSVG(t, c.svg)
}

func TestInterruptCleansUp(t *testing.T) {
	c := small(t, "badger")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(ctx, c, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	checkEmpty(t, c.dir)
}

func TestTargets(t *testing.T) {
	good := report{
		limit: 100, peak: usage{heap: 100}, keys: 1,
		load: speed{first: 10, last: 6}, join: speed{first: 10, last: 6},
		storeTook: time.Second / 2, crdtTook: time.Second / 2,
	}
	if n := good.missed(); n != 0 {
		t.Errorf("a run that meets all targets misses %d", n)
	}
	for name, spoil := range map[string]func(*report){
		"heap":   func(r *report) { r.peak.heap++ },
		"load":   func(r *report) { r.load.last-- },
		"join":   func(r *report) { r.join.last-- },
		"reopen": func(r *report) { r.crdtTook++ },
	} {
		bad := good
		if spoil(&bad); bad.missed() != 1 {
			t.Errorf("%s: %d targets missed instead of one", name, bad.missed())
		}
	}
}

func TestSpeedComparesMillions(t *testing.T) {
	var rows []row
	for i := 1; i <= 50; i++ { // a key takes longer and longer
		rows = append(rows, row{phase: "load", keys: i * 100_000, seconds: float64(i * i)})
	}
	s := speedOf(rows, "load")
	if s.span != million || s.first != 1_000_000/100. || s.last != 1_000_000/float64(50*50-40*40) {
		t.Errorf("got %+v", s)
	}
}

func TestKeysDiffer(t *testing.T) {
	c := defaults()
	seen := make(map[string]bool)
	for i := range 100_000 {
		seen[c.key(i).String()] = true
	}
	if len(seen) != 100_000 {
		t.Errorf("%d keys", len(seen))
	}
}

func readAll(t *testing.T, csv string) []row {
	t.Helper()
	rows, err := readRows(csv)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// checkPhase wants a row for every window, the last one with all keys.
func checkPhase(t *testing.T, c config, rows []row, phase string) {
	t.Helper()
	rows = ofPhase(rows, phase)
	if len(rows) != c.keys/c.window {
		t.Fatalf("%s: %d rows", phase, len(rows))
	}
	for i, r := range rows {
		if r.keys != (i+1)*c.window || r.rate <= 0 || r.now.heap == 0 || r.peak.heap < r.now.heap || r.disk == 0 {
			t.Errorf("%s: row %d is %+v", phase, i, r)
		}
	}
}

func checkSummary(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"load ", "join ", "peak heap", "peak RSS", "disk, loaded", "20,000 keys counted in each", "reopen"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the summary:\n%s", want, out)
		}
	}
}

// checkSVG wants well-formed XML in which both panels have their labels.
func checkSVG(t *testing.T, path string) {
	t.Helper()
	svg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(svg, new(struct{})); err != nil {
		t.Error(err)
	}
	for _, p := range panels {
		if !bytes.Contains(svg, []byte(p.label)) {
			t.Errorf("no label %q", p.label)
		}
	}
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
