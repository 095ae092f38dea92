package crdt

import (
	"bytes"
	"context"
	"maps"
	"runtime"
	"slices"
	"testing/synctest"
	"time"

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
		s.t.Fatalf("a block of %d bytes that nobody has made, with %v: %s", len(raw), s.whoHas(id), err)
	}
	s.parsed[id] = b
	return b
}

// isMerePage reports whether what was made is a page that cannot be read as a block. A
// corrupted message can announce one, which is refused.
func (s *simulation) isMerePage(id blockID) bool {
	s.net.mu.Lock()
	raw := s.net.archive[id.Cid()]
	s.net.mu.Unlock()
	_, err := s.decoder().decode(id, raw)
	return raw != nil && isFinal(err)
}

func (s *simulation) decoder() *blockStore {
	return &blockStore{newDelta: newPBDelta, maxSize: 2 << 20}
}

// patience is how long anything may take once all is well: a replica hears of
// everything within an interval and its jitter, and a request that was made
// before may take its time and a pause once more.
// Of dropped blocks it takes a while to find out that they are nowhere, and so it does of
// pages: those of a checkpoint that nobody else holds go with who has made it. In each of
// three DAGs a replica may want such a one first, and another one next.
func (s *simulation) patience() time.Duration {
	p := 4*s.interval + 2*s.timeout + 5*time.Second
	if s.snapshots {
		p += 3 * 2 * pagePatience
	}
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
	for _, r := range s.replicas {
		r.hasPurged = false
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
		if len(pendingHeads) > 0 || r.fetcher.len() > 0 || !maps.Equal(heads, first) || !r.isSure() || !r.hooksRun() || r.busyWithCheckpoints() {
			return false
		}
	}
	return true
}

// isSure reports whether a replica knows what its store holds. After a write that failed and
// may have been made all the same it does not, until the next commit: reads show what was
// written, and nobody has been told of the heads.
func (r *simReplica) isSure() bool {
	select {
	case <-r.committer.turn:
		defer r.committer.release()
		return !r.committer.stale
	default:
		return false
	}
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
	time.Sleep(4*s.unit + 2*time.Second) // for late messages
	s.awaitRepairs()
	s.converge() // and for what they made replicas ask for
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

// awaitRepairs waits for repairs that have begun. They may have asked, where a request may
// take for ever, for blocks that have come to be covered since, and are nowhere.
func (s *simulation) awaitRepairs() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*walkPatience)
	defer cancel()
	for _, r := range s.replicas {
		r.must(r.repairer.acquireAlone(ctx))
		r.repairer.releaseAlone()
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
	r.spread, r.uncovers, r.portion = maxSpread, maxValueBytes, 0
	r.start()
	before := r.cost()
	s.converge()
	c := r.cost().minus(before)
	s.checkAll()
	maxRequests, maxRows := blocks+blocks/4+16, 40*blocks+200
	if s.snapshots { // it fetches pages as well, and blocks below which it takes these
		maxRequests, maxRows = 4*maxRequests, 2*maxRows+1000
	}
	if c.requests > maxRequests || c.reads+c.writes > maxRows {
		s.t.Errorf("a newcomer took %+v for %d blocks", c, blocks)
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
// there may be a queue row of a block that was merged, until its turn comes, and after
// a purge some versions are gone that its blocks do not remove.
func (s *simulation) checkLeft(r *simReplica) {
	if r.spoilt || r.hasPurged {
		return
	}
	bad := s.net.netFaults // which reading pages would suffer from
	s.net.weather(netFaults{})
	checkStore(s.t, r.replica)
	s.net.weather(bad)
}
