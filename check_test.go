package crdt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

var errForbidden = errors.New("forbidden")

// forbid refuses deltas with a key below /forbidden.
func forbid(o *Options) {
	silent(o)
	o.CheckDelta = func(_ context.Context, _ Head, d Delta) error {
		elements, err := d.GetElements()
		for _, e := range elements {
			if strings.HasPrefix(e.GetKey(), "/forbidden/") {
				return errForbidden
			}
		}
		return err
	}
}

func TestDeltasThatAreNotAdmittedAreRefused(t *testing.T) {
	for _, size := range []int{-1, 1 << 10} {
		t.Run(fmt.Sprint("inline=", size), func(t *testing.T) {
			net := newTestNet()
			careless := net.newReplica(t, inline(size))
			r := net.newReplica(t, forbid)
			careless.put("/good", "v")
			r.awaitMerged(careless.head())
			careless.put("/forbidden/k", "v")
			bad := careless.head()
			careless.put("/above", "v")
			waitFor(t, "the block to be refused", func() bool { return r.state(bad) == refused })
			waitFor(t, "the block above it", func() bool { return r.state(careless.head()) == stranded })
			if got := fmt.Sprint(r.pairs()); got != "map[/above:v /good:v]" {
				t.Errorf("pairs: %s", got)
			}
			r.put("/after", "v") // on the last head that is whole
			careless.awaitMerged(r.head())
		})
	}
}

func TestWritesThatAreNotAdmittedFailAlone(t *testing.T) {
	r := newTestNet().newReplica(t, forbid)
	r.must(r.acquire(ctx))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { r.put(fmt.Sprint("/good/", i), "v") })
		wg.Go(func() {
			err := r.Put(ctx, ds.NewKey(fmt.Sprint("/forbidden/", i)), nil)
			if !errors.Is(err, ErrInvalidBlock) || !errors.Is(err, errForbidden) {
				t.Errorf("Put: %v", err)
			}
		})
	}
	r.awaitWriters(20)
	r.release()
	wg.Wait()
	if got := r.pairs(); len(got) != 10 {
		t.Errorf("pairs: %v", got)
	}
}

func TestCheckDeltaSeesTheBlock(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	net := newTestNet()
	r := net.newReplica(t, func(o *Options) {
		o.CheckDelta = func(_ context.Context, h Head, d Delta) error {
			mu.Lock()
			defer mu.Unlock()
			elements, err := d.GetElements()
			seen = append(seen, fmt.Sprint(h, elements[0].GetKey()))
			return err
		}
	})
	liar := net.node()
	c := r.offer(liar, &pb.Delta{Priority: 7, DagName: "dag", Elements: oneElement("/k")})
	r.awaitMerged(c)
	r.put("/mine", "v")
	heads, _, err := r.Heads().ListDAG(ctx, "")
	r.must(err)
	want := []string{
		fmt.Sprintf("%s (height 7 in dag)/k", c),
		fmt.Sprintf("%s (height 1)/mine", heads[0].Cid),
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("judged %v, want %v", seen, want)
	}
}

// A judge that was cut off has not judged.
func TestCheckDeltaThatIsCutOffRefusesNothing(t *testing.T) {
	net := newTestNet()
	other := net.newReplica(t)
	begun := make(chan struct{}, 1)
	patient := func(ctx context.Context, _ Head, _ Delta) error {
		select {
		case begun <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}
	r := net.newReplica(t, func(o *Options) { o.CheckDelta = patient })
	other.put("/k", "v")
	<-begun
	r.must(r.Close())
	r.opts.CheckDelta = nil
	r.open()
	converge(t, r, other)
}
