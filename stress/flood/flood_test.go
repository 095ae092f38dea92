// Package flood has a replica join an honest peer beside a liar, over libp2p, gossipsub and
// bitswap.
package flood

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

const (
	blocks      = 300 // of the history
	updates     = 40
	updateEvery = 50 * time.Millisecond

	// again is how often the honest peer announces its heads.
	again = time.Second
)

var history = ds.NewKey("/history")

// A result says how long things took.
type result struct {
	history time.Duration
	updates []time.Duration // the fastest first
}

func (r result) half() time.Duration  { return r.updates[len(r.updates)/2] }
func (r result) worst() time.Duration { return r.updates[len(r.updates)-1] }
func (r result) String() string {
	return fmt.Sprintf("history %s; updates: half within %s, all within %s", r.history.Round(time.Millisecond), r.half().Round(time.Millisecond), r.worst().Round(time.Millisecond))
}

// An honest history, and live updates that are not inline, come beside a liar much as they
// do without him.
func TestHistoryComesBesideLiar(t *testing.T) {
	var alone result
	t.Run("alone", func(t *testing.T) {
		alone = join(t, func(*testing.T, *liar) {})
		t.Log(alone)
	})
	for _, attack := range []struct {
		name  string
		begin func(*testing.T, *liar)
	}{
		{"1,000 dead links", func(t *testing.T, l *liar) { l.offerDeadLinks(t, 1000) }},
		{"5,000 dead links", func(t *testing.T, l *liar) { l.offerDeadLinks(t, 5000) }},
		{"300 announcements a second", func(t *testing.T, l *liar) { l.announceNothing(t, 300) }},
	} {
		t.Run(attack.name, func(t *testing.T) {
			took := join(t, attack.begin)
			t.Log(took)
			if most := 3*alone.history + again; took.history > most {
				t.Errorf("the history took %s, and %s alone", took.history, alone.history)
			}
			if most := 3*alone.half() + again; took.half() > most {
				t.Errorf("half of the updates took more than %s, and %s alone", took.half(), alone.half())
			}
		})
	}
}

// join has a replica join that a liar is already at work on. It fetches the history of an
// honest peer, who goes on writing meanwhile.
func join(t *testing.T, attack func(*testing.T, *liar)) result {
	w := &watch{written: make(map[ds.Key]time.Time)}
	reading, writing := crdt.DefaultOptions(), crdt.DefaultOptions()
	reading.PutHook = w.came
	writing.RebroadcastInterval, writing.InlineBlockSize = again, -1
	honest, newcomer := openReplica(t, writing), openReplica(t, reading)
	for i := range blocks {
		must(t, honest.Put(t.Context(), history.ChildString(fmt.Sprint(i)), []byte("v")))
	}
	l := newLiar(t, newcomer)
	attack(t, l)

	begun := time.Now()
	honest.connect(t, newcomer.peer)
	l.connect(t, honest.peer)
	var writer sync.WaitGroup
	writer.Go(func() { w.update(t, honest) })
	defer writer.Wait()
	await(t, "the history", func() bool { n, _ := w.counts(); return n == blocks })
	r := result{history: time.Since(begun)}
	writer.Wait()
	await(t, "the updates", func() bool { _, n := w.counts(); return n == updates })
	slices.Sort(w.took)
	r.updates = w.took
	return r
}

// A watch sees when pairs come.
type watch struct {
	mu      sync.Mutex
	written map[ds.Key]time.Time // updates that have not come
	history int                  // pairs that have
	took    []time.Duration      // by updates that have
}

// update writes, and notes when.
func (w *watch) update(t *testing.T, honest *replica) {
	for i := range updates {
		key := ds.NewKey(fmt.Sprint("/update/", i))
		w.writes(key)
		if err := honest.Put(t.Context(), key, []byte("v")); err != nil {
			t.Error(err)
		}
		time.Sleep(updateEvery)
	}
}

func (w *watch) writes(key ds.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[key] = time.Now()
}

// came is a PutHook.
func (w *watch) came(key ds.Key, _ []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since, ok := w.written[key]; ok {
		w.took = append(w.took, time.Since(since))
		delete(w.written, key)
	} else if key.Parent() == history {
		w.history++
	}
}

func (w *watch) counts() (history, updates int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.history, len(w.took)
}
