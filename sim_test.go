package crdt

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	logging "github.com/ipfs/go-log/v2"
)

var (
	simSeeds = flag.Int("sim.n", 40, "how many seeds TestSimulation runs")
	simSeed  = flag.Int("sim.seed", -1, "the only seed that TestSimulation runs; negative: all")
)

// silent keeps what stores that fail on purpose give rise to out of the log.
func silent(o *Options) {
	o.Logger = logging.Logger("crdt-silent")
	if err := logging.SetLogLevel("crdt-silent", "fatal"); err != nil {
		panic(err)
	}
}

// Replicas whose stores die or fail write over a bad network, and converge when
// all is well again. A seed always takes the same steps, but goroutines may
// meet differently each time: repeat one that failed with -count.
func TestSimulation(t *testing.T) {
	first, last := 0, *simSeeds-1
	if *simSeed >= 0 {
		first, last = *simSeed, *simSeed
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { // after the stores have been checked
				if t.Failed() {
					t.Logf("replay: go test -run 'TestSimulation$' -sim.seed=%d", seed)
				}
			})
			newSimulation(t, uint64(seed)).run()
		})
	}
}

type simulation struct {
	t        *testing.T
	rng      *rand.Rand
	net      *testNet
	replicas []*simReplica
}

type simReplica struct {
	*replica
	faults *faultyStore
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 99)), net: newTestNet()}
	s.net.rand = rand.New(rand.NewPCG(seed, 5))
	s.net.drop, s.net.duplicate, s.net.reorder, s.net.corrupt = 0.2, 0.1, 0.1, 0.05
	for i := range uint64(3) {
		faults := newFaultyStore()
		var store ds.Datastore = faults
		if (seed+i)%2 == 1 {
			store = plainStore{faults}
		}
		r := s.net.newReplicaOn(t, store, silent, s.options)
		s.replicas = append(s.replicas, &simReplica{r, faults})
	}
	return s
}

func (s *simulation) options(o *Options) {
	o.RebroadcastInterval = 50 * time.Millisecond
	o.DAGSyncerTimeout = 300 * time.Millisecond
	o.MaxBatchDeltaSize = pick(s.rng, 150, 1<<20) // the smaller splits batches
	o.InlineBlockSize = pick(s.rng, 0, 200)       // some blocks travel inline, or none
}

func (s *simulation) run() {
	for step := range 80 {
		r := s.replicas[s.rng.IntN(len(s.replicas))]
		r.write(s.rng, step)
		s.disturb(r)
		for _, r := range s.replicas {
			if r.dead() {
				r.reopen(s.rng)
			}
		}
	}
	var all []*replica
	for _, r := range s.replicas {
		if r.dead() {
			r.reopen(s.rng)
		}
		r.faults.heal()
		all = append(all, r.replica)
	}
	s.net.heal()
	converge(s.t, all...)
}

// disturb does something to a replica or to the network, or nothing.
func (s *simulation) disturb(r *simReplica) {
	switch s.rng.IntN(16) {
	case 0:
		r.faults.dieAfter(s.rng.IntN(25))
	case 1:
		r.faults.failIn(s.rng.IntN(25), false)
	case 2:
		r.faults.failIn(s.rng.IntN(25), true)
	case 3:
		s.net.split(s.rng.IntN(2), s.rng.IntN(2), s.rng.IntN(2))
	case 4:
		waitFor(s.t, "a replica to hear what it was sent", r.heardAll)
	case 5:
		r.reopen(s.rng)
	}
}

func (r *simReplica) heardAll() bool {
	r.node.net.mu.Lock()
	defer r.node.net.mu.Unlock()
	return len(r.node.inbox) == 0
}

// dead tells whether a write has found the store dead.
func (r *simReplica) dead() bool { return r.faults.hasDied() }

// reopen kills a replica, so that nothing that it still does reaches the store,
// and starts it again, at times in two attempts.
func (r *simReplica) reopen(rng *rand.Rand) {
	r.faults.dieAfter(0)
	_ = r.Close() // cannot write any more
	r.faults.heal()
	if rng.IntN(3) == 0 {
		r.faults.dieAfter(rng.IntN(6))
	}
	m, err := NewMerkleCRDT(r.store, testNamespace, r.node, r.node, r.opts, nil)
	if err != nil {
		r.faults.heal()
		r.open()
		return
	}
	r.MerkleCRDT = m
}

// write writes something. It may fail, and then have taken effect or not.
func (r *simReplica) write(rng *rand.Rand, step int) {
	key := func() ds.Key { return ds.NewKey(fmt.Sprintf("/k/%d", rng.IntN(8))) }
	switch rng.IntN(6) {
	case 0, 1:
		_ = r.Delete(ctx, key())
	case 2:
		r.writeBatch(rng, key, step)
	case 3:
		r.writeAtOnce(step, key(), key(), key())
	case 4:
		r.uncover(rng, key())
	default:
		_ = r.Put(ctx, key(), []byte(fmt.Sprint(step%5)))
	}
}

func (r *simReplica) writeBatch(rng *rand.Rand, key func() ds.Key, step int) {
	b, err := r.Batch(ctx)
	r.must(err)
	for range 4 {
		if rng.IntN(2) == 0 {
			_ = b.Delete(ctx, key())
		} else {
			_ = b.Put(ctx, key(), []byte(fmt.Sprint("b", step)))
		}
	}
	_ = b.Commit(ctx)
}

func (r *simReplica) writeAtOnce(step int, keys ...ds.Key) {
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() { _ = r.Put(ctx, k, []byte(fmt.Sprint("g", step, i))) })
	}
	wg.Wait()
}

// uncover deletes all versions of a key but one.
func (r *simReplica) uncover(rng *rand.Rand, key ds.Key) {
	d, err := r.Set().Rmv(ctx, key.String())
	r.must(err) // stores can always be read
	versions, err := d.GetTombstones()
	r.must(err)
	if len(versions) > 1 {
		d.SetTombstones(versions[1:])
	}
	d.SetDagName(pick(rng, "", "dag"))
	_, _ = r.Publish(ctx, d)
}
