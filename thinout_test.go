package crdt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// readCountingStore counts rows that are read one by one, whose names have some part.
type readCountingStore struct {
	ds.Batching
	part string
	gets atomic.Int64
}

func (s *readCountingStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	if strings.Contains(k.String(), s.part) {
		s.gets.Add(1)
	}
	return s.Batching.Get(ctx, k)
}

// Checkpoints read no more rows, and there are no more of them, the longer the history is.
func TestCheckpointsDoNotPileUp(t *testing.T) {
	store := &readCountingStore{Batching: newAtomicStore()}
	r := newTestNet().newReplicaOn(t, store)
	read := func() int64 {
		for i := range 60 {
			r.put(fmt.Sprint("/", i), "v")
		}
		before := store.gets.Load()
		r.checkpoint()
		r.awaitHeldCheckpoints(3)
		return store.gets.Load() - before
	}
	for range 5 {
		read()
	}
	early := read()
	var late []int64
	for range 60 {
		late = append(late, read())
	}
	if median := slices.Sorted(slices.Values(late))[30]; median > 3*early {
		t.Errorf("a checkpoint reads %d rows, and %d at first", median, early)
	}
	if pages := len(r.heldPages()); pages > 50 {
		t.Errorf("%d pages are held", pages)
	}
}

// awaitHeldCheckpoints waits until there are so many at most.
func (r *replica) awaitHeldCheckpoints(most int) {
	r.t.Helper()
	waitFor(r.t, fmt.Sprintf("%d checkpoints at most", most), func() bool { return len(r.frontier.checkpoints().held()) <= most })
}

// As long as history is kept, there are checkpoints that say since when it has been covered.
func TestHistoryIsDroppedInTimeWhateverIsThinnedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perHour = 4
		r := newTestNet().newReplica(t, func(o *Options) { o.KeepHistory, o.SupersedingPuts = 8*time.Hour, true })
		for i := range 20 * perHour {
			r.put("/k", fmt.Sprint(i))
			r.checkpoint()
			time.Sleep(time.Hour / perHour)
			synctest.Wait()
			if n := len(r.frontier.checkpoints().held()); n > thinningsIn+4 {
				t.Fatalf("after %d checkpoints %d are held", i, n)
			}
			blocks := 2 * min(i+1, 10*perHour) // at the latest an eighth later
			if marks := len(r.rowsUnder("/b")); marks > blocks || marks < min(blocks, 2*8*perHour-2) {
				t.Fatalf("after %d checkpoints there are %d marks", i, marks)
			}
		}
	})
}

func TestUnneededCheckpoints(t *testing.T) {
	at := func(minutes ...int) (all []*checkpoint) {
		for _, m := range minutes {
			all = append(all, &checkpoint{since: time.Unix(int64(60*m), 0)})
		}
		return all
	}
	for _, test := range []struct {
		old   []*checkpoint
		apart time.Duration
		want  []*checkpoint
	}{
		{nil, time.Minute, nil},
		{at(3, 1, 2), 0, at(1, 2, 3)},
		{at(3, 1, 2), time.Minute, nil},
		{at(0, 1, 2, 3, 10, 11), 2 * time.Minute, at(1, 3, 11)},
	} {
		got := unneeded(test.old, test.apart)
		if !slices.EqualFunc(got, test.want, func(a, b *checkpoint) bool { return a.since.Equal(b.since) }) {
			t.Errorf("%d checkpoints, %s apart: %d are not needed", len(test.old), test.apart, len(got))
		}
	}
}
