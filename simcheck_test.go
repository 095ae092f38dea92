package crdt

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
)

// block returns a block that was made some time, wherever it is now.
func (s *simulation) block(id blockID) *block {
	if b := s.parsed[id]; b != nil {
		return b
	}
	s.net.mu.Lock()
	raw := s.net.archive[id.Cid()]
	s.net.mu.Unlock()
	b, err := s.decoder().decode(id, raw)
	if err != nil {
		s.t.Fatalf("a block that nobody has made: %s", err)
	}
	s.parsed[id] = b
	return b
}

func (s *simulation) decoder() *blockStore {
	return &blockStore{newDelta: newPBDelta, maxSize: 2 << 20}
}

// patience is how long anything may take once all is well: a replica hears of
// everything within an interval and its jitter, and a request that was made
// before may take its time and a pause once more.
// Of dropped blocks it takes a while to find out that they are nowhere.
func (s *simulation) patience() time.Duration {
	p := 4*s.interval + 2*s.timeout + 5*time.Second
	if s.drops {
		p += (maxAttempts+1)*(s.interval+s.timeout) + 2*maxSlowAge
	}
	return p
}

// converge waits until all replicas hold the same heads, with nothing missing,
// and all have merged the same blocks.
func (s *simulation) converge() {
	s.t.Helper()
	begun := time.Now()
	for synctest.Wait(); !s.converged(); synctest.Wait() {
		if time.Since(begun) > s.patience() {
			s.t.Errorf("no convergence %s after all was well", s.patience())
			for _, r := range s.replicas {
				heads, pendingHeads := r.frontier.tips()
				s.t.Logf("replica %d: %d heads, %d pending heads %v, %d jobs", r.number, len(heads), len(pendingHeads), pendingHeads.list(), r.fetcher.len())
				r.logCheckpoints()
			}
			s.t.FailNow()
		}
		if time.Sleep(s.unit / 20); time.Since(s.reminded) > s.interval {
			s.remind()
		}
	}
}

// remind has everybody hear of the blocks that no replica may announce.
// A block that is unavailable is given up until it is announced again.
func (s *simulation) remind() {
	s.reminded = time.Now()
	s.foreign.announceTips()
	for _, id := range s.lastWords {
		_ = s.foreign.node.Broadcast(ctx, announcement(id.Cid()))
	}
}

func (s *simulation) converged() bool {
	first, _ := s.replicas[0].frontier.tips()
	for _, r := range s.replicas {
		heads, pendingHeads := r.frontier.tips()
		if len(pendingHeads) > 0 || r.fetcher.len() > 0 || !maps.Equal(heads, first) || !r.hooksRun() || r.busyWithCheckpoints() {
			return false
		}
	}
	return true
}

// hooksRun reports whether no hook is running or waiting.
func (r *simReplica) hooksRun() bool {
	r.hooks.mu.Lock()
	defer r.hooks.mu.Unlock()
	return len(r.hooks.events) == 0 && !r.hooks.running
}

// checkAll checks what must be true once all have converged.
func (s *simulation) checkAll() {
	s.t.Helper()
	want := s.replicas[0].pairs()
	for _, r := range s.replicas {
		r.checkPairs()
		r.checkMirror()
		if got := r.pairs(); !maps.Equal(got, want) {
			s.t.Errorf("replica %d differs from replica %d\n%s", r.number, s.replicas[0].number, diff(got, want))
		}
		s.checkMerged(r)
		r.checkSnapshots()
	}
}

// checkMerged checks that a replica has merged what any other has, all that was
// acknowledged and all that was announced.
func (s *simulation) checkMerged(r *simReplica) {
	s.t.Helper()
	for id := range s.acked {
		if !r.merged[id] {
			s.t.Errorf("replica %d has not merged block %s, which was acknowledged", r.number, id.Cid())
		}
	}
	for _, b := range s.foreign.blocks {
		if !r.merged[b.id] {
			s.t.Errorf("replica %d has not merged foreign block %s", r.number, b.id.Cid())
		}
	}
	if first := s.replicas[0]; !maps.Equal(r.merged, first.merged) {
		s.t.Errorf("replica %d has merged %d blocks, replica %d %d", r.number, len(r.merged), first.number, len(first.merged))
	}
}

// A cost is what a replica has asked of its store and its DAG service.
type cost struct{ requests, reads, writes int }

func (r *simReplica) cost() cost {
	r.node.net.mu.Lock()
	defer r.node.net.mu.Unlock()
	return cost{r.node.requests, int(r.faults.reads.Load()), int(r.faults.writes.Load())}
}

func (c cost) minus(d cost) cost {
	return cost{c.requests - d.requests, c.reads - d.reads, c.writes - d.writes}
}

// checkNothingGoesOn checks that replicas that agree leave their stores and
// their peers in peace, and that no goroutine is left but those that wait for
// something to do.
func (s *simulation) checkNothingGoesOn() {
	s.t.Helper()
	time.Sleep(4*s.unit + 2*time.Second) // for late messages and repairs
	s.converge()                         // and for what they made replicas ask for
	before := make(map[*simReplica]cost)
	goroutines := s.idle
	for _, r := range s.replicas {
		before[r] = r.cost()
		goroutines += r.goroutines()
	}
	time.Sleep(5 * s.interval)
	synctest.Wait()
	for _, r := range s.replicas {
		if c := r.cost().minus(before[r]); c.requests > 0 || c.writes > 0 {
			s.t.Errorf("replica %d does something while nothing happens: %+v", r.number, c)
		}
	}
	if n := goroutinesInBubble(); n != goroutines {
		s.t.Errorf("%d goroutines, want %d", n, goroutines)
	}
}

// goroutines is how many a replica has that has nothing to do: the merger, the
// announcer, the listener and, if asked for, those that repair and greet.
func (r *simReplica) goroutines() int {
	n := 3
	if r.opts.RepairInterval > 0 {
		n++
	}
	if r.joiner {
		n++
	}
	return n
}

// goroutinesInBubble counts the goroutines of the caller's bubble.
func goroutinesInBubble() int {
	buf := make([]byte, 64<<10)
	head, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte("\n"))
	bubble := slices.Clone(head[bytes.Index(head, []byte("synctest bubble")):]) // buf is written again
	for {
		if n := runtime.Stack(buf, true); n < len(buf) {
			return bytes.Count(buf[:n], bubble)
		}
		buf = make([]byte, 2*len(buf))
	}
}

// checkNewcomer has a replica join that knows nothing. It asks for each block
// once, and again for some whose values a tombstone uncovers. What it does for a
// block does not depend on how many there are. About 25 rows are usual.
func (s *simulation) checkNewcomer() {
	s.t.Helper()
	blocks := len(s.replicas[0].merged)
	r := s.newSimReplica()
	r.spread, r.uncovers = maxSpread, maxValueBytes
	r.start()
	before := r.cost()
	s.converge()
	c := r.cost().minus(before)
	s.checkAll()
	maxRequests, maxRows := blocks+blocks/4+16, 40*blocks+200
	if s.snapshots { // it fetches pages as well, and blocks below which it takes these
		maxRequests, maxRows = 2*maxRequests, 2*maxRows+1000
	}
	if c.requests > maxRequests || c.reads+c.writes > maxRows {
		s.t.Errorf("a newcomer took %+v for %d blocks", c, blocks)
	}
}

// purge has all replicas purge a DAG, while none of them lacks any of it. They go
// on as if it had never been, until its blocks come again.
func (s *simulation) purge() {
	name := pick(s.rng, s.dags...)
	purged := s.blocksOf(name)
	s.net.split(s.rng.Perm(len(s.net.nodes))...) // or it would come again from those whose turn has not come
	for _, r := range s.replicas {
		for _, want := range []int{len(purged), 0} {
			if n, err := r.PurgeDAG(ctx, name); err != nil || n > want || n < want && !s.snapshots {
				s.t.Errorf("replica %d purged %d blocks of %d: %v", r.number, n, want, err)
			}
		}
		r.forget(purged)
	}
	bringBack := s.forget(purged)
	s.net.split()
	s.converge()
	s.checkAll()
	for range 20 {
		r := pick(s.rng, s.replicas...)
		choose(s.rng, writes)(s, r)
		if s.rng.IntN(10) == 0 {
			r.stop()
			r.start()
		}
		time.Sleep(pick(s.rng, 0, s.unit))
	}
	s.converge()
	s.checkAll()
	bringBack()
	s.converge()
	s.checkAll()
}

// blocksOf returns the blocks of a DAG, all of which every replica has merged.
func (s *simulation) blocksOf(dagName string) map[blockID]bool {
	ids := make(map[blockID]bool)
	for id := range s.replicas[0].merged {
		if s.block(id).delta.dagName == dagName {
			ids[id] = true
		}
	}
	return ids
}

// forget removes blocks from all nodes, also those of replicas that have left, and
// from what is known to the simulation. The foreign writer gets them back, and
// announces them, when the function that it returns is called.
func (s *simulation) forget(ids map[blockID]bool) (bringBack func()) {
	lastWords, foreign, acked := s.lastWords, s.foreign.blocks, maps.Clone(s.acked)
	s.lastWords = slices.DeleteFunc(slices.Clone(lastWords), func(id blockID) bool { return ids[id] })
	s.foreign.blocks = slices.DeleteFunc(slices.Clone(foreign), func(b *block) bool { return ids[b.id] })
	maps.DeleteFunc(s.acked, func(id blockID, _ bool) bool { return ids[id] })
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for _, node := range s.net.nodes {
		maps.DeleteFunc(node.blocks, func(c cid.Cid, _ []byte) bool { id, err := blockIDOf(c); return err == nil && ids[id] })
	}
	return func() {
		s.lastWords, s.foreign.blocks = lastWords, foreign
		maps.Copy(s.acked, acked)
		for id := range ids {
			s.lastWords = append(s.lastWords, id)
			if err := s.foreign.node.addRaw(id.Cid(), s.block(id).raw); err != nil {
				s.t.Fatal(err)
			}
		}
		s.remind()
	}
}

// forget takes blocks out of the model. What their tombstones have removed of
// others stays removed.
func (r *simReplica) forget(ids map[blockID]bool) {
	r.model = make(modelSet)
	for id := range r.merged {
		b := r.s.block(id)
		if !ids[id] {
			r.model.merge(b)
			continue
		}
		delete(r.merged, id)
		for _, t := range b.delta.tombstones {
			if removed, ok := parseDsKey(t.GetId()); ok && !ids[removed] {
				r.model.key(t.GetKey()).tombstones[removed] = true
			}
		}
	}
}

// checkOneMoreWrite has one replica write once: what that costs the others does
// not depend on what was written before.
func (s *simulation) checkOneMoreWrite() {
	s.t.Helper()
	before := make(map[*simReplica]cost)
	for _, r := range s.replicas {
		before[r] = r.cost()
	}
	writer := pick(s.rng, s.replicas...)
	writer.must(writer.Put(ctx, ds.NewKey("/one-more"), []byte("v")))
	s.converge()
	for _, r := range s.replicas {
		c := r.cost().minus(before[r])
		if (c.requests > 1 || c.reads+c.writes > 100) && !s.snapshots {
			s.t.Errorf("one more write cost replica %d %+v", r.number, c)
		}
	}
	s.checkAll()
}

// checkLeft checks what a replica that has left leaves behind. After a failure
// there may be a queue row of a block that was merged, until its turn comes.
func (s *simulation) checkLeft(r *simReplica) {
	if r.spoilt {
		return
	}
	bad := s.net.netFaults // which reading pages would suffer from
	s.net.weather(netFaults{})
	checkStore(s.t, r.replica)
	s.net.weather(bad)
}
