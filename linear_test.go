package crdt

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	ds "github.com/ipfs/go-datastore"
)

var (
	linearSeeds = flag.Int("linear.n", 40, "how many seeds TestLinearizable runs")
	linearSeed  = flag.Int("linear.seed", -1, "the only seed that TestLinearizable runs; negative: all")
)

// Clients of one replica see their Puts, Deletes, batches and reads happen one after the
// other, each between its call and its return, while blocks of another replica are merged
// into other keys. A batch is one step, since the store shows its commits whole: see
// patientStore. Many short histories are checked, since a long one takes for ever.
//
// A seed gives clients the same steps, but they may meet differently each time: repeat
// one that failed with -count.
func TestLinearizable(t *testing.T) {
	first, last := 0, *linearSeeds-1
	if *linearSeed >= 0 {
		first, last = *linearSeed, *linearSeed
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newLinearTest(t, uint64(seed)).run()
		})
	}
}

const (
	linearClients = 8
	linearSteps   = 5 // of a client between two restarts
)

type linearTest struct {
	t     *testing.T
	seed  uint64
	r     *replica
	other *replica
	clock atomic.Int64

	mu      sync.Mutex
	history []porcupine.Operation
}

func newLinearTest(t *testing.T, seed uint64) *linearTest {
	l := &linearTest{t: t, seed: seed}
	net := newTestNet()
	options := func(o *Options) {
		if seed%2 == 0 {
			o.MaxBatchDeltaSize = 300 // holds a batch, but not all that may wait
		}
		o.InlineBlockSize = -1
	}
	l.r = net.newReplicaOn(t, &patientStore{Batching: newAtomicStore()}, options)
	l.other = net.newReplica(t)
	return l
}

func (l *linearTest) run() {
	for round := range 3 {
		l.round(round)
		if round == 1 {
			l.r.restart()
		}
	}
	converge(l.t, l.r, l.other)
	result := porcupine.CheckOperationsTimeout(linearModel, l.history, time.Minute)
	if result == porcupine.Ok {
		return
	}
	l.t.Errorf("the history is not linearizable: %s\nreplay: go test -run 'TestLinearizable$' -linear.seed=%d -count=100", result, l.seed)
	for _, op := range l.history {
		l.t.Logf("%4d-%-4d %s", op.Call, op.Return, describeLinear(op.Input, op.Output))
	}
}

// round lets all clients do their steps while the other replica writes.
func (l *linearTest) round(round int) {
	var all sync.WaitGroup
	for id := range linearClients {
		all.Go(func() {
			c := &linearClient{linearTest: l, id: id, round: round}
			c.rng = rand.New(rand.NewPCG(l.seed, uint64(100*round+id)))
			for step := range linearSteps {
				c.step(step)
			}
		})
	}
	for i := range 20 {
		l.other.put(fmt.Sprint("/other/", i%5), fmt.Sprint(round, i))
	}
	all.Wait()
}

// A linearClient does one thing at a time.
type linearClient struct {
	*linearTest
	id, round int
	rng       *rand.Rand
}

func (c *linearClient) step(step int) {
	value := strings.Repeat("v", c.id) + fmt.Sprint(c.id, c.round, step) // no other write has it
	switch key := c.rng.IntN(linearKeys); c.rng.IntN(8) {
	case 0, 1:
		c.write(linearWrites{{key, value}}, c.put)
	case 2:
		c.write(linearWrites{{key, ""}}, c.remove)
	case 3, 4:
		c.write(c.several(key, value), c.commit)
	default:
		c.read(key)
	}
}

// several puts or deletes some keys, or some of each.
func (c *linearClient) several(key int, value string) linearWrites {
	w := linearWrites{{key, value}, {(key + 1) % linearKeys, value}}
	if c.rng.IntN(3) == 0 {
		w[1].value = ""
	}
	if c.rng.IntN(3) == 0 {
		w[0].value, w[1].value = "", ""
	}
	return w
}

// write does a write and notes it. Its context may end meanwhile: it has then no effect,
// or it succeeds.
func (c *linearClient) write(w linearWrites, do func(context.Context, linearWrites) error) {
	ctx := ctx
	if c.rng.IntN(4) == 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(c.rng.IntN(1000))*time.Microsecond)
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

func (c *linearClient) read(key int) {
	kind := linearRead(c.rng.IntN(3))
	call := c.clock.Add(1)
	var out any
	var err error
	switch k := linearKey(key); kind {
	case readHas:
		out, err = c.r.Has(ctx, k)
	case readSize:
		out, err = c.r.GetSize(ctx, k)
	default:
		var v []byte
		v, err = c.r.Get(ctx, k)
		out = string(v)
	}
	if err != nil && !errors.Is(err, ds.ErrNotFound) {
		c.t.Errorf("reading %s: %s", linearKey(key), err)
	}
	c.note(call, linearLook{key, kind}, out)
}

// The model: the values of a few keys, "" for none. Writes put no empty values.
const linearKeys = 4

type linearState [linearKeys]string

func linearKey(key int) ds.Key { return ds.NewKey(fmt.Sprint("/mine/", key)) }

// linearWrites happen in one step; an empty value is a Delete.
type linearWrites []struct {
	key   int
	value string
}

type linearRead int

const (
	readGet linearRead = iota
	readHas
	readSize
)

type linearLook struct {
	key  int
	kind linearRead
}

// sees is what a read gives of a value.
func (k linearRead) sees(value string) any {
	switch {
	case k == readHas:
		return value != ""
	case k == readSize && value == "":
		return -1
	case k == readSize:
		return len(value)
	}
	return value
}

var linearModel = porcupine.Model{
	Init: func() any { return linearState{} },
	Step: func(state, input, output any) (bool, any) {
		s := state.(linearState)
		if look, ok := input.(linearLook); ok {
			return look.kind.sees(s[look.key]) == output, s
		}
		for _, w := range input.(linearWrites) {
			s[w.key] = w.value
		}
		return true, s
	},
}

func describeLinear(input, output any) string {
	if look, ok := input.(linearLook); ok {
		return fmt.Sprintf("%s of %d gives %v", []string{"Get", "Has", "GetSize"}[look.kind], look.key, output)
	}
	return fmt.Sprintf("write %v", input)
}

// patientStore takes its time for reads and for commits. No read falls into the middle of
// a commit.
type patientStore struct {
	ds.Batching
	mu sync.RWMutex
}

// dawdle lets others go ahead, at times by far.
func dawdle() {
	if rand.IntN(8) == 0 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
	}
	runtime.Gosched()
}

func (s *patientStore) reading() (end func()) {
	dawdle()
	s.mu.RLock()
	return func() { s.mu.RUnlock(); dawdle() }
}

func (s *patientStore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	defer s.reading()()
	return s.Batching.Get(ctx, k)
}

func (s *patientStore) Has(ctx context.Context, k ds.Key) (bool, error) {
	defer s.reading()()
	return s.Batching.Has(ctx, k)
}

func (s *patientStore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	defer s.reading()()
	return s.Batching.GetSize(ctx, k)
}

func (s *patientStore) Batch(ctx context.Context) (ds.Batch, error) {
	b, err := s.Batching.Batch(ctx)
	return &patientBatch{b, s}, err
}

type patientBatch struct {
	ds.Batch
	store *patientStore
}

func (b *patientBatch) Commit(ctx context.Context) error {
	dawdle()
	defer dawdle()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	return b.Batch.Commit(ctx)
}
