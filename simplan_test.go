package crdt

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
)

const maxSimReplicas = 8

// A simulation is one seed.
type simulation struct {
	t       *testing.T
	rng     *rand.Rand // of the steps alone
	net     *testNet
	foreign *foreignWriter
	liar    *liar
	idle    int // goroutines before there is a replica

	replicas  []*simReplica    // those that have not left for ever
	acked     map[blockID]bool // blocks of writes that succeeded anywhere
	parsed    map[blockID]*block
	lastWords []blockID // heads of replicas that have left: somebody has heard of them
	well      bool      // nothing fails any more
	reminded  time.Time // when everybody was last told of these, and of foreign blocks

	covers map[blockID]map[blockID]*block // of checkpoints

	// What the seed decides:
	snapshots bool // there are checkpoints
	drops     bool // and history is dropped
	large     bool // values are
	steps     int
	keys      []string
	dags      []string
	blockSize int
	unit      time.Duration // that all times are about as long as

	disturbances []weighted[func(*simulation)]

	interval time.Duration // the longest RebroadcastInterval
	timeout  time.Duration // the longest DAGSyncerTimeout
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	rng := rand.New(rand.NewPCG(seed, 99))
	s := &simulation{
		t:            t,
		rng:          rng,
		net:          newTestNet(),
		acked:        make(map[blockID]bool),
		parsed:       make(map[blockID]*block),
		steps:        20 + rng.IntN(60),
		disturbances: disturbances,
		keys:         someKeys(rng),
		dags:         []string{"", "dag", testID(1).String()},
		blockSize:    pick(rng, 0, 0, 0, minBlockSize),
		unit:         pick(rng, 200*time.Millisecond, time.Second, 5*time.Second),
		idle:         goroutinesInBubble(),
	}
	s.planCheckpoints(seed)
	s.net.seed, s.net.archive = seed, make(map[cid.Cid][]byte)
	s.foreign = &foreignWriter{s: s, node: s.net.node()}
	s.foreign.node.sound = true
	s.liar = newLiar(t, s.net)
	s.liar.node.sound = true
	t.Cleanup(s.end)
	for range 2 + rng.IntN(4) {
		s.join()
	}
	s.net.weather(s.badWeather())
	return s
}

// simKeys have others below them, contain what is special in the names of rows,
// or look like such names.
var simKeys = []string{
	"/k", "/k/1", "/k/1/2", "/k/1/2/3", "/k/10", "/k/%2F", "/k/1%2F2", "/%", "/k/a b", "/k/ü", "/k/\x00", "/k:1",
	"/s/r/k", "/h", "/" + testID(1).String(), "/k/" + testID(1).String(), "/k/" + testID(2).String() + "/x",
}

func someKeys(rng *rand.Rand) []string {
	keys := make([]string, 2+rng.IntN(len(simKeys)-2))
	for i, at := range rng.Perm(len(simKeys))[:len(keys)] {
		keys[i] = simKeys[at]
	}
	return keys
}

func (s *simulation) key() string { return pick(s.rng, s.keys...) }

// value returns a value that others may have as well, or one that is unique.
func (s *simulation) value() string {
	switch n := s.rng.IntN(4); {
	case s.large && n == 1:
		return s.largeValue()
	case n == 0:
		return pick(s.rng, "", "a", "b", "\x00")
	case n == 1:
		return strings.Repeat("long", s.rng.IntN(200))
	}
	return fmt.Sprint("v", s.rng.Uint32())
}

// options are those of one replica.
func (s *simulation) options(o *Options) {
	silent(o)
	o.RebroadcastInterval = s.unit * pick[time.Duration](s.rng, 1, 2, 4)
	o.DAGSyncerTimeout = s.unit * pick[time.Duration](s.rng, 0, 1, 5)
	o.MaxBatchDeltaSize = pick(s.rng, 150, 2000, 1<<20) // the smaller split batches
	o.NumWorkers = pick(s.rng, 1, 5)
	o.InlineBlockSize = pick(s.rng, 0, 200, 16<<10)
	o.BroadcastBatchDelay = pick(s.rng, 0, 0, s.unit/10)
	o.RepairInterval = pick(s.rng, 0, time.Second, time.Hour)
	o.MaxBlockSize = s.blockSize
	o.SupersedingPuts = pick(s.rng, false, true)
	s.checkpointOptions(o)
	s.interval = max(s.interval, o.RebroadcastInterval)
	s.timeout = max(s.timeout, o.DAGSyncerTimeout)
}

// badWeather returns faults of the network. Any of them may be absent.
func (s *simulation) badWeather() netFaults {
	p := func(most float64) float64 { return pick(s.rng, 0, 0.3, 1) * most * s.rng.Float64() }
	d := func(units time.Duration) time.Duration {
		return pick(s.rng, 0, time.Millisecond, s.unit/10, s.unit*units) + time.Duration(s.rng.IntN(2))
	}
	return netFaults{
		drop: p(0.9), duplicate: p(0.5), reorder: p(0.5), corrupt: p(0.5), refuse: p(0.5),
		latency: 1 + d(3),
		slow:    d(2), fail: p(0.5), garble: p(0.3), hang: p(0.3),
		lack: p(0.7), lackFor: s.unit + d(20), addFail: p(0.2),
		addSlow: pick(s.rng, 0, 0, d(1)),
	}
}

// run is the way of every seed.
func (s *simulation) run() {
	for range s.steps {
		s.step()
	}
	s.heal()
	s.converge()
	s.checkAll()
	s.settle()
	s.checkNothingGoesOn()
	s.checkCheckpoints()
	s.checkNewcomer()
	s.checkOneMoreWrite()
	if s.rng.IntN(4) == 0 {
		s.purge()
	}
}

// step does one thing to a replica, at times disturbs it or the network, and
// lets a moment pass.
func (s *simulation) step() {
	if s.rng.IntN(3) == 0 {
		choose(s.rng, s.disturbances)(s)
	}
	s.reviveSome()
	for _, r := range s.replicas {
		r.goOnPurging()
	}
	if r := s.anyUp(); r != nil && r.purging == nil {
		choose(s.rng, writes)(s, r)
	}
	time.Sleep(pick(s.rng, 0, time.Millisecond, s.unit/10, s.unit/2))
	if s.rng.IntN(30) == 0 {
		time.Sleep(time.Duration(s.rng.Int64N(int64(20 * s.unit))))
	}
}

// heal makes all well again: from now on nothing fails.
func (s *simulation) heal() {
	for _, r := range s.replicas {
		r.faults.dieAfter(-1)
		r.faults.failIn(-1, 0, false)
	}
	s.net.heal()
	s.well = true
	for _, r := range s.replicas {
		if r.reap(); r.down {
			r.start()
		}
		r.goOnPurging()
	}
	synctest.Wait()
	s.remind()
}

// end closes what is open, so that the bubble can end, and looks at what is
// left on disk.
func (s *simulation) end() {
	s.net.heal()
	for _, r := range s.replicas {
		if r.MerkleCRDT == nil || r.down {
			continue
		}
		if err := r.Close(); err != nil && !r.faults.hasDied() {
			s.t.Errorf("closing replica %d: %s", r.number, err)
		}
		if !s.t.Failed() {
			checkStore(s.t, r.replica)
		}
	}
}

// A weighted function is one of several, to be chosen at random.
type weighted[F any] struct {
	weight int
	f      F
}

func choose[F any](rng *rand.Rand, of []weighted[F]) F {
	sum := 0
	for _, w := range of {
		sum += w.weight
	}
	at := rng.IntN(sum)
	for _, w := range of {
		if at -= w.weight; at < 0 {
			return w.f
		}
	}
	panic("no weights")
}
