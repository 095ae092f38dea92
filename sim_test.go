package crdt

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The simulation, in the files sim*_test.go: replicas on stores that fail and
// die write over a bad network, and when all is well again they must hold what
// the plain model says, at a bounded cost. Each seed is a network of its own
// in fake time.
//
//	sim_test.go             the seeds to run, and how
//	simplan_test.go         what a seed decides at the start, and the way of a run
//	simreplica_test.go      a replica: processes that start, stop and die on one store
//	simsteps_test.go        what is done to replicas: writes, and disturbances
//	simwrites_test.go       the writes, and what must be true after each
//	simforeign_test.go      a writer that makes blocks in its own way
//	simcheckpoints_test.go  what two of three seeds have to do with checkpoints
//	simpurge_test.go        PurgeDAG, on the way and in the end
//	simcheck_test.go        what must be true in the end
//	kit_network_test.go     the network and the DAG services, with their faults
//	kit_stores_test.go      the stores, with theirs
//
// A run for a night, with a line every ten seconds:
//
//	go test -run 'TestSimulation$' -v -timeout 0 -sim.long=8h .
var (
	simSeeds = flag.Int("sim.n", 100, "how many seeds TestSimulation runs")
	simFirst = flag.Uint64("sim.first", 0, "the first seed that it runs; with -sim.long, 0 means a random one")
	simSeed  = flag.Int64("sim.seed", -1, "the only seed that it runs, up to -sim.tries times; negative: all")
	simTries = flag.Int("sim.tries", 10, "how often -sim.seed is run until it fails")
	simLong  = flag.Duration("sim.long", 0, "how long it runs seeds, whatever -sim.n says; use -v and -timeout 0 as well")
)

// hangsAfter is far longer than any seed takes, in real time.
const hangsAfter = time.Minute

// A failing seed prints the line that replays it. A seed always takes the same
// steps on the same network, but goroutines that run at the same moment may
// meet in another order: a replay tries several times.
func TestSimulation(t *testing.T) {
	defer smallPages()()
	s := &simRun{t: t, first: *simFirst, count: uint64(*simSeeds), begun: time.Now()}
	switch {
	case *simSeed >= 0:
		for i := 0; i < *simTries && !t.Failed(); i++ {
			s.seed(uint64(*simSeed))
		}
		return
	case *simLong > 0:
		s.count = 1 << 62
		if s.first == 0 {
			s.first = rand.Uint64N(1 << 40)
		}
		defer s.progress()()
	}
	s.all()
}

// A simRun runs seeds, as many at a time as there are processors.
type simRun struct {
	t            *testing.T
	first, count uint64
	begun        time.Time

	begin        sync.Mutex
	next         uint64 // to run, counted from first
	done, failed atomic.Int64
}

func (s *simRun) all() {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // seeds make much garbage and hold little
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed, ok := s.take(); ok; seed, ok = s.take() {
				s.seed(seed)
			}
		})
	}
	workers.Wait()
}

// take returns the next seed, unless all have been run, the time is over, or one has
// failed and -failfast is set.
func (s *simRun) take() (seed uint64, ok bool) {
	s.begin.Lock()
	defer s.begin.Unlock()
	if s.next >= s.count || *simLong > 0 && time.Since(s.begun) > *simLong || s.failed.Load() > 0 && failFast() {
		return 0, false
	}
	s.next++
	return s.first + s.next - 1, true
}

func failFast() bool { return flag.Lookup("test.failfast").Value.String() == "true" }

// seed runs one seed in a goroutine of its own, which a failure ends.
func (s *simRun) seed(seed uint64) {
	replay := fmt.Sprintf("replay: go test -run 'TestSimulation$' -sim.seed=%d .", seed)
	hangs := time.AfterFunc(hangsAfter, func() {
		debug.SetTraceback("all")
		panic("a seed takes for ever, " + replay)
	})
	defer hangs.Stop()
	passed, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if p := recover(); p != nil { // goroutines are left that wait for each other
				s.t.Errorf("seed %d: %v", seed, p)
			}
		}()
		synctest.Test(s.t, func(t *testing.T) { newSimulation(t, seed).run() })
		passed = true
	}()
	<-ended
	s.done.Add(1)
	if !passed {
		s.failed.Add(1)
		s.t.Error(replay)
	}
}

// progress says every ten seconds how far a long run has come, until the
// function that it returns is called.
func (s *simRun) progress() (stop func()) {
	fmt.Fprintf(os.Stderr, "seeds from %d on, for %s\n", s.first, *simLong)
	ticks, ended := time.NewTicker(10*time.Second), make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() {
		for {
			select {
			case <-ticks.C:
				s.report()
			case <-ended:
				return
			}
		}
	})
	return func() { ticks.Stop(); close(ended); reporter.Wait(); s.report() }
}

func (s *simRun) report() {
	done, took := s.done.Load(), time.Since(s.begun)
	fmt.Fprintf(os.Stderr, "%d seeds, %d failed, %.1f a second, %s left\n",
		done, s.failed.Load(), float64(done)/took.Seconds(), max(0, *simLong-took).Round(time.Second))
}
