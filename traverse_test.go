package crdt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

func TestCloseCutsOffATraverseThatWaits(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.DAGSyncerTimeout = 0 })
	ended := make(chan error)
	go func() { ended <- r.Traverse(ctx, []cid.Cid{unavailable(0)}, nil) }()
	waitFor(t, "a request", func() bool {
		r.node.net.mu.Lock()
		defer r.node.net.mu.Unlock()
		return r.node.requests > 0
	})
	r.must(r.Close())
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrClosed) {
		t.Errorf("Traverse: %v", err)
	}
}

// A request that takes too long fails for that, and not as if somebody had called it off.
func TestTraverseSaysThatABlockTookTooLong(t *testing.T) {
	r := newTestNet().newReplica(t, func(o *Options) { o.DAGSyncerTimeout = time.Millisecond })
	if err := r.Traverse(ctx, []cid.Cid{unavailable(0)}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Traverse: %v", err)
	}
}

func TestTraverseAndDraw(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	net.split(0, 1)
	for i := range 10 {
		a.put(fmt.Sprint("/a", i), "v")
		b.put(fmt.Sprint("/b", i), "v")
	}
	net.heal()
	converge(t, a, b)
	a.put("/join", "v")
	var tops []cid.Cid
	for _, h := range a.InternalStats(ctx).Heads {
		tops = append(tops, h.Cid)
	}
	seen := make(map[cid.Cid]bool)
	a.must(a.Traverse(ctx, tops, func(n ipld.Node) error {
		if seen[n.Cid()] {
			t.Errorf("block %s twice", n.Cid())
		}
		seen[n.Cid()] = true
		return nil
	}))
	if len(seen) != 21 {
		t.Errorf("%d blocks, want 21", len(seen))
	}
	if err := a.Traverse(ctx, nil, func(ipld.Node) error { return nil }); err == nil {
		t.Error("Traverse from nowhere succeeded")
	}
	var dot bytes.Buffer
	a.must(a.DotDAG(ctx, &dot))
	// 9 in each branch and 2 that join them; in each branch a skip link.
	if arrows := strings.Count(dot.String(), "->"); arrows != 9+9+2+2 {
		t.Errorf("%d arrows in\n%s", arrows, dot.String())
	}

	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	read, write, err := os.Pipe()
	a.must(err)
	os.Stdout = write
	a.must(a.PrintDAG(ctx))
	a.must(write.Close())
	printed, err := io.ReadAll(read)
	a.must(err)
	if lines := bytes.Count(printed, []byte("\n")); lines != 21 {
		t.Errorf("%d lines printed, want one for each of 21 blocks", lines)
	}
}
