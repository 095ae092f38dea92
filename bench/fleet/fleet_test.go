package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
)

func TestQuick(t *testing.T) {
	svg := filepath.Join(t.TempDir(), "fleet.svg")
	c, err := parse([]string{"-quick", "-out", svg}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := measureAll(t, c, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 10 | 10 | 50 |", "| 30 | 10 | 50 |", " p99, ms |", " links of a block |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the tables:\n%s", want, out.String())
		}
	}
	checkSVG(t, svg)
}

func TestFigures(t *testing.T) {
	r, err := measure(t, plan{replicas: 10, rate: 10, span: 5 * time.Second, seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]bool{
		"a block comes over the network": r.p50 >= 5*time.Millisecond && r.p50 <= r.p99 && r.p99 <= r.worst,
		"a block has a value and a link": r.blockBytes > valueSize && r.links >= 1,
		"everybody gets what is sent":    r.parcels >= 1 && r.bytes >= r.blockBytes,
		"the bytes are those of parts":   r.bytes-(r.posts+r.gossip+r.dags) < 1e-6,
		"there are heads":                r.maxHeads >= 1 && r.heads <= float64(r.maxHeads),
		"merging takes time":             r.cpu > 0,
	}
	for what, ok := range checks {
		if !ok {
			t.Errorf("not so: %s: %+v", what, r)
		}
	}
}

// checkSVG wants well-formed XML in which all panels have their labels.
func checkSVG(t *testing.T, path string) {
	t.Helper()
	svg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(svg, new(struct{})); err != nil {
		t.Error(err)
	}
	for _, f := range slices.Concat(panels...) {
		if !bytes.Contains(svg, []byte(f.name)) {
			t.Errorf("no label %q", f.name)
		}
	}
}

// Replicas that hold something else than what was written are found out.
func TestOtherPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan{replicas: 2, rate: 1, span: time.Second, seed: 1}
		f := &fleet{plan: p, ctx: t.Context(), net: newNetwork(p.replicas, p.seed), log: planWrites(p)}
		if err := f.open(); err != nil {
			t.Fatal(err)
		}
		defer f.close()
		if f.checkPairs() == nil {
			t.Error("a missing pair is not noticed")
		}
		for _, replica := range f.replicas {
			if err := replica.Put(t.Context(), keyOf(0), []byte("another")); err != nil {
				t.Fatal(err)
			}
		}
		if f.checkPairs() == nil {
			t.Error("another value is not noticed")
		}
		if f.agree() {
			t.Error("other heads are not noticed")
		}
	})
}

func TestMesh(t *testing.T) {
	net := newNetwork(200, 1)
	reached := map[*peer]bool{net.peers[0]: true}
	for queue := []*peer{net.peers[0]}; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if len(p.mesh) < meshDegree || len(p.mesh) > meshHigh {
			t.Errorf("%d neighbours", len(p.mesh))
		}
		for _, other := range p.mesh {
			if !slices.Contains(other.mesh, p) {
				t.Error("one is in the mesh of the other alone")
			}
			if !reached[other] {
				reached[other] = true
				queue = append(queue, other)
			}
		}
	}
	if len(reached) != len(net.peers) {
		t.Errorf("only %d peers can be reached", len(reached))
	}
}

// onNetwork calls f beside a network that runs.
func onNetwork(t *testing.T, n int, f func(*testing.T, *network)) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(n, 1)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { net.run(ctx); close(ended) }()
		f(t, net)
		stop()
		<-ended
	})
}

func TestGossipMendsLosses(t *testing.T) {
	onNetwork(t, 20, func(t *testing.T, net *network) {
		for _, p := range net.peers {
			p.mesh = nil // as if all had been lost
		}
		net.publish(net.peers[0], []byte("news"))
		time.Sleep(time.Minute)
		heard := 0
		for _, p := range net.peers {
			if data, ok := p.radio.take(); ok && string(data) == "news" {
				heard++
			}
		}
		if heard < 18 { // some may not have been asked in time
			t.Errorf("only %d of 19 have heard it", heard)
		}
	})
}

func TestBlockIsFound(t *testing.T) {
	onNetwork(t, 20, func(t *testing.T, net *network) {
		node := merkledag.NodeWithData([]byte("a block"))
		net.peers[7].dag.keep(node)
		got, err := net.peers[3].dag.Get(t.Context(), node.Cid())
		if err != nil || !got.Cid().Equals(node.Cid()) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// Who waits for a block from the network gets it from the replica too.
func TestBlockComesOtherwise(t *testing.T) {
	onNetwork(t, 20, func(t *testing.T, net *network) {
		node := merkledag.NodeWithData([]byte("a block"))
		time.AfterFunc(time.Second, func() { net.peers[3].dag.keep(node) })
		begun := time.Now()
		if _, err := net.peers[3].dag.Get(t.Context(), node.Cid()); err != nil || time.Since(begun) != time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
	})
}

func TestWire(t *testing.T) {
	w := wire{perByte: slowLink}
	if done, ok := w.pass(time.Second, 1000); !ok || done != time.Second+8*time.Millisecond {
		t.Errorf("through at %s, %v", done, ok)
	}
	if done, ok := w.pass(time.Second, queueBytes); !ok || done != time.Second+8*time.Millisecond+queueBytes*slowLink {
		t.Errorf("the second one through at %s, %v", done, ok)
	}
	if _, ok := w.pass(time.Second, 1); ok {
		t.Error("there is no end to the queue")
	}
}

func TestLatencies(t *testing.T) {
	for a, row := range latencies {
		for b, to := range row {
			if to != latencies[b][a] || to < 5 || float64(to)*(1+jitter) > 200 {
				t.Errorf("from %d to %d it takes %d ms", a, b, to)
			}
		}
	}
}

func TestWrongFlags(t *testing.T) {
	for _, args := range [][]string{{"-n", "1"}, {"-n", "ten"}, {"-rate", "0"}, {"what"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
