package main

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the program of the tests be a replica, too.
func TestMain(m *testing.M) {
	if dir := os.Getenv(replicaDir); dir != "" {
		exit(serve(dir, os.Args[1:]))
	}
	goleak.VerifyTestMain(m,
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

func TestSoak(t *testing.T) { soakBriefly(t) }

func TestSoakWithCheckpoints(t *testing.T) {
	soakBriefly(t, "-checkpoint-every", "200", "-keep-history", "1s")
}

func soakBriefly(t *testing.T, more ...string) {
	t.Parallel()
	cfg, err := parse(append([]string{"-for", "15s", "-calm", "4s", "-replicas", "3", "-keys", "200",
		"-faults", "500ms", "-seed", "1", "-v"}, more...), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	cfg.dir = t.TempDir()
	if err := soak(t.Context(), cfg, t.Output()); err != nil {
		t.Fatal(err)
	}
}

func TestInterrupt(t *testing.T) {
	cfg, err := parse([]string{"-replicas", "2"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	cfg.dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := soak(ctx, cfg, t.Output()); err == nil {
		t.Fatal("a run of half an hour ended after two seconds, without an error")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for flag, want := range map[string]string{
		"-for=0s":     "-for is 0s",
		"-replicas=1": "-replicas is 1",
		"-keys=10":    "-keys is 10",
		"-rate=0":     "-rate is 0",
		"-faults=0s":  "-faults is 0s",
		"-away=1s":    "-away is 1s",
		"-calm=0s":    "-calm is 0s",
		"-settle=0s":  "-settle is 0s",

		"-checkpoint-every=-1": "-checkpoint-every is -1",
		"-keep-history=-1s":    "-keep-history is -1s",
	} {
		cfg, err := parse([]string{flag}, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		if err := cfg.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestLedger(t *testing.T) {
	const key = "/own/1/k"
	l := newLedger("/own/1/")
	l.begin(Change{Puts: []Pair{{key, "1"}, {"/shared/k", "1"}}})
	l.acknowledge()
	l.begin(Change{Puts: []Pair{{key, "2"}, {key + "2", "2"}}, Batch: true})
	for name, held := range map[string]map[string]string{
		"nothing":        {},
		"half a batch":   {key: "2"},
		"something else": {key: "3"},
	} {
		if err := l.settle(held); err == nil {
			t.Errorf("%s was taken for what should be there", name)
		}
	}
	after := map[string]string{key: "2", key + "2": "2"}
	if err := l.settle(maps.Clone(after)); err != nil {
		t.Error("a change that was under way may be there:", err)
	}
	if err := l.settle(map[string]string{key: "1"}); err == nil {
		t.Error("a change that was seen there may not be gone")
	}
}

func TestLedgerOfAChangeThatNeverWas(t *testing.T) {
	l := newLedger("/own/1/")
	l.begin(Change{Puts: []Pair{{"/own/1/k", "1"}}})
	if err := l.settle(map[string]string{}); err != nil {
		t.Fatal(err)
	}
	if err := l.settle(map[string]string{"/own/1/k": "1"}); err == nil {
		t.Error("a change that was seen not to be there may not come later")
	}
}

func TestFlat(t *testing.T) {
	q := quantities[0]
	grown := series{samples: make([]sample, 10)}
	for i := range grown.samples {
		grown.samples[i].Heap = uint64(i) * 5 * mebi
	}
	if first, last := q.trend(grown); first != 10 || last != 40 || q.flat(first, last) {
		t.Errorf("growth from %v to %v counts as flat", first, last)
	}
	if !q.flat(10, 18.9) {
		t.Error("growth by half and the slack counts as growth")
	}
}

func TestCutsAreMutual(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		cut := randomCut(5, random)
		for i := range cut {
			for j := range cut {
				if cut[i][j] != cut[j][i] || cut[i][i] {
					t.Fatalf("not mutual: %v", cut)
				}
			}
		}
	}
}
