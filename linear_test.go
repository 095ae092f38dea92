package crdt

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

var (
	linearSeeds = flag.Int("linear.n", 100, "how many seeds TestLinearizable runs")
	linearSeed  = flag.Int("linear.seed", -1, "the only seed that TestLinearizable runs; negative: all")
)

// Clients of one replica see their Puts, Deletes, batches and reads happen one after the
// other, each between its call and its return, while blocks of another replica are merged
// into other keys. A batch is one step and so is a query, since the store shows its
// commits whole: see patientStore. Many short histories are checked, since a long one
// takes for ever.
//
// linearmodel_test.go has the model, kit_stores_test.go the store.
//
// Time is fake, so that clients meet in the middle of commits however busy the machine is.
// A seed gives clients the same steps, but those that go on at the same moment may do so
// in another order each time: repeat one that failed with -count.
func TestLinearizable(t *testing.T) {
	first, last := 0, *linearSeeds-1
	if *linearSeed >= 0 {
		first, last = *linearSeed, *linearSeed
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := &linearTest{seed: uint64(seed)}
			defer l.check(t) // whatever else has failed
			synctest.Test(t, l.run)
		})
	}
}

// What happens between two restarts. Few keys and many clients make them meet.
const (
	linearRounds  = 3
	linearWriters = 5
	linearReaders = 3
	linearSteps   = 5  // of a writer
	linearLooks   = 12 // of a reader, which takes less time for each
)

type linearTest struct {
	t     *testing.T // of the bubble
	seed  uint64
	r     *replica
	other *replica
	clock atomic.Int64

	mu      sync.Mutex
	history []porcupine.Operation
}

func (l *linearTest) run(t *testing.T) {
	l.t = t
	net := newTestNet()
	store := &patientStore{Batching: newAtomicStore(), rng: rand.New(rand.NewPCG(l.seed, 0))}
	l.r = net.newReplicaOn(t, store, func(o *Options) {
		if l.seed%2 == 0 {
			o.MaxBatchDeltaSize = linearBatchSize
		}
		o.InlineBlockSize = -1
	})
	l.other = net.newReplica(t)
	for round := range linearRounds {
		l.round(round)
		if round == 1 {
			l.r.restart()
		}
	}
	converge(t, l.r, l.other)
}

func (l *linearTest) check(t *testing.T) {
	result := porcupine.CheckOperationsTimeout(linearModel, l.history, time.Minute)
	if result == porcupine.Ok {
		return
	}
	t.Errorf("the history is not linearizable: %s\nreplay: go test -run 'TestLinearizable$' -linear.seed=%d -count=100 .", result, l.seed)
	for _, op := range l.history {
		t.Logf("%4d-%-4d %s", op.Call, op.Return, describeLinear(op.Input, op.Output))
	}
}

// round lets all clients do their steps while the other replica writes.
func (l *linearTest) round(round int) {
	var all sync.WaitGroup
	for id := range linearWriters + linearReaders {
		all.Go(func() {
			c := &linearClient{linearTest: l, id: id, round: round}
			c.rng = rand.New(rand.NewPCG(l.seed, uint64(1+100*round+id)))
			c.steps()
		})
	}
	for i := range 20 {
		l.other.put(fmt.Sprint("/other/", i%5), fmt.Sprint(round, i))
		time.Sleep(50 * time.Microsecond)
	}
	all.Wait()
}

// A linearClient does one thing at a time.
type linearClient struct {
	*linearTest
	id, round int
	rng       *rand.Rand
}

func (c *linearClient) steps() {
	if c.id >= linearWriters {
		for range linearLooks {
			c.read()
		}
		return
	}
	for step := range linearSteps {
		c.step(strings.Repeat("v", c.id) + fmt.Sprint(c.id, c.round, step)) // no other write has it
	}
}

func (c *linearClient) step(value string) {
	switch key := c.rng.IntN(linearKeys); c.rng.IntN(8) {
	case 0, 1:
		c.write(linearWrites{{key, value}}, c.put)
	case 2:
		c.write(linearWrites{{key, ""}}, c.remove)
	case 3, 4, 5:
		c.write(c.several(value), c.commit)
	default:
		c.read()
	}
}

// several puts and deletes three keys or all four, in any order.
func (c *linearClient) several(value string) (w linearWrites) {
	for _, key := range c.rng.Perm(linearKeys)[c.rng.IntN(2):] {
		w = append(w, linearWrite{key, value})
		if c.rng.IntN(2) == 0 {
			w[len(w)-1].value = ""
		}
	}
	return w
}

// write does a write and notes it. Its context may end meanwhile: it has then no effect,
// or it succeeds.
func (c *linearClient) write(w linearWrites, do func(context.Context, linearWrites) error) {
	ctx := ctx
	if c.rng.IntN(4) == 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(c.rng.IntN(400))*time.Microsecond)
		defer cancel()
		ctx = limited
	}
	call := c.clock.Add(1)
	err := do(ctx, w)
	if err == nil {
		c.note(call, w, nil)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		c.t.Errorf("%s: %s", describeLinear(w, nil), err)
	}
}

func (c *linearClient) note(call int64, input, output any) {
	op := porcupine.Operation{ClientId: c.id, Input: input, Call: call, Output: output, Return: c.clock.Add(1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, op)
}

func (c *linearClient) put(ctx context.Context, w linearWrites) error {
	return c.r.Put(ctx, linearKey(w[0].key), []byte(w[0].value))
}

func (c *linearClient) remove(ctx context.Context, w linearWrites) error {
	return c.r.Delete(ctx, linearKey(w[0].key))
}

func (c *linearClient) commit(ctx context.Context, w linearWrites) error {
	b, err := c.r.Batch(ctx)
	if err != nil {
		return err
	}
	for _, one := range w {
		if one.value == "" {
			err = b.Delete(ctx, linearKey(one.key))
		} else {
			err = b.Put(ctx, linearKey(one.key), []byte(one.value))
		}
		if err != nil {
			return err
		}
	}
	return b.Commit(ctx)
}

func (c *linearClient) read() {
	look := linearLook{c.rng.IntN(linearKeys), linearRead(c.rng.IntN(6))}
	call := c.clock.Add(1)
	out, err := c.look(look)
	if err != nil && !errors.Is(err, ds.ErrNotFound) {
		c.t.Errorf("%s: %s", describeLinear(look, nil), err)
	}
	c.note(call, look, out)
}

func (c *linearClient) look(look linearLook) (any, error) {
	switch k := linearKey(look.key); look.kind {
	case readHas:
		return c.r.Has(ctx, k)
	case readSize:
		return c.r.GetSize(ctx, k)
	case readGet:
		v, err := c.r.Get(ctx, k)
		return string(v), err
	default:
		return c.all()
	}
}

// all is what a query gives.
func (c *linearClient) all() (s linearState, err error) {
	results, err := c.r.Query(ctx, query.Query{Prefix: "/mine"})
	if err != nil {
		return s, err
	}
	pairs, err := results.Rest()
	for _, p := range pairs {
		for key := range s {
			if p.Key == linearKey(key).String() {
				s[key] = string(p.Value)
			}
		}
	}
	return s, err
}
