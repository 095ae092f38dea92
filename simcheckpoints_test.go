package crdt

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// Two of three seeds have checkpoints: some replicas make them, and all others check
// them, or take them in the place of blocks. Some of these seeds drop history as well.
// What all replicas hold is judged as ever: it is what all blocks amount to that were ever
// made.

// checkpointSteps are what a step may do beside writing, where there are checkpoints.
var checkpointSteps = []weighted[func(*simulation)]{
	{12, (*simulation).checkpoint},
	{6, (*simulation).compact},
	{1, (*simulation).askRoot},
	{2, (*simulation).lag},
	{6, (*simulation).purgeOne},
	{4, (*simulation).dieSoon},
	{12, (*simulation).crashAmidTake},
}

// planCheckpoints decides what a seed has to do with checkpoints.
func (s *simulation) planCheckpoints(seed uint64) {
	if s.snapshots = seed%3 != 0; !s.snapshots {
		return
	}
	s.drops = s.rng.IntN(5) < 3
	s.large = s.rng.IntN(6) == 0 && s.blockSize == 0
	s.disturbances = slices.Concat(disturbances, checkpointSteps)
}

func (s *simulation) checkpointOptions(o *Options) {
	if !s.snapshots {
		return
	}
	o.CheckpointEvery = pick(s.rng, 0, 0, 3, 10)
	o.WalkHistory = !s.drops && s.rng.IntN(5) == 0
	if s.drops {
		o.KeepHistory = pick(s.rng, 0, 0, s.unit, 10*s.unit)
	}
}

// changeWalking has a process walk at times where the last one did not, or the other way
// round. A take that was going on is left then.
func (s *simulation) changeWalking(r *simReplica) {
	if s.snapshots && !s.drops && !s.well && s.rng.IntN(6) == 0 {
		r.opts.WalkHistory = !r.opts.WalkHistory
	}
}

// smallPages lets the trees of a few entries have several pages, until the function that
// it returns is called. No other test may run meanwhile.
func smallPages() (restore func()) {
	whole := honestSizes
	honestSizes.least, honestSizes.middle = 200, 500
	return func() { honestSizes = whole }
}

// largeValue makes it likely that a snapshot has several pages.
func (s *simulation) largeValue() string {
	value := make([]byte, s.rng.IntN(40<<10))
	rng := rand.NewPCG(s.rng.Uint64(), 0)
	for i := range value {
		value[i] = byte(rng.Uint64())
	}
	return string(value)
}

// What is asked of checkpoints on the way may fail, or take too long: blocks may be
// missing, and the network and the stores fail.

func (s *simulation) checkpoint() {
	s.someUp(func(r *simReplica) {
		ctx, cancel := s.someTime()
		defer cancel()
		if dag := pick(s.rng, s.dags...); dag != "" {
			_, _ = r.CheckpointDAG(ctx, dag)
		} else {
			_, _ = r.Checkpoint(ctx)
		}
	})
}

func (s *simulation) compact() {
	if !s.drops {
		return
	}
	s.someUp(func(r *simReplica) {
		ctx, cancel := s.someTime()
		defer cancel()
		_, _ = r.CompactDAG(ctx, pick(s.rng, s.dags...))
	})
}

func (s *simulation) askRoot() {
	s.someUp(func(r *simReplica) {
		ctx, cancel := s.someTime()
		defer cancel()
		_, _ = r.StateRoot(ctx)
	})
}

func (s *simulation) someTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, pick(s.rng, s.unit, 3*time.Second))
}

// lag stops a replica for long: others make checkpoints meanwhile, and drop what is below.
func (s *simulation) lag() {
	s.someUp(func(r *simReplica) {
		if s.countUp() > 1 {
			r.stop()
			r.sleeps = 10 + s.rng.IntN(30)
		}
	})
}

// crashAmidTake ends a process that is taking a checkpoint, now or at one of its next writes.
func (s *simulation) crashAmidTake() {
	for _, r := range s.replicas {
		if r.reap(); r.down || !r.isTaking() {
			continue
		}
		if s.rng.IntN(3) == 0 {
			r.crash()
		} else {
			r.faults.dieAfter(s.rng.IntN(4))
		}
		return
	}
}

func (r *simReplica) isTaking() bool {
	for _, cp := range r.frontier.checkpoints() {
		if cp.state == checkpointTaking || cp.state == checkpointTold {
			return true
		}
	}
	return false
}

func (s *simulation) countUp() (n int) {
	for _, r := range s.replicas {
		if !r.down {
			n++
		}
	}
	return n
}

// coverOf returns the blocks that a checkpoint covers, by brute force.
func (s *simulation) coverOf(cp *checkpoint) map[blockID]*block {
	if cover := s.covers[cp.id]; cover != nil {
		return cover
	}
	cover := make(map[blockID]*block)
	for todo := slices.Clone(cp.links); len(todo) > 0; {
		b := s.block(todo[0])
		if todo = todo[1:]; cover[b.id] == nil && b.delta.dagName == cp.tip.DAGName {
			cover[b.id] = b
			todo = append(todo, b.links...)
		}
	}
	setIn(&s.covers, cp.id, cover)
	return cover
}

// known returns what the store of a replica knows of checkpoints.
func (r *simReplica) known() checkpoints {
	known, err := r.Datastore.store.loadCheckpoints(ctx)
	r.must(err)
	return known
}

// addCovered adds the blocks to the marks that are known by covers.
func (r *simReplica) addCovered(states map[blockID]markState) {
	for _, cp := range r.known().held() {
		for id := range r.s.coverOf(cp) {
			if states[id] == unknown || states[id] == pending {
				states[id] = complete
			}
		}
	}
}

// early reports whether versions may be here before their blocks: a checkpoint is being
// taken, or was and has been left. A purge has the same effect, the other way round, until
// all has come back.
func (r *simReplica) early(states map[blockID]markState) bool {
	if r.hasPurged {
		return true
	}
	for id, cp := range r.known() {
		if cp.state.hides() || cp.done > 0 && !cp.state.held() && states[id] != complete {
			return true
		}
	}
	return false
}

// checkVersions compares the live versions in the store with those that the merged
// blocks amount to. If some may be here before their blocks, that is no reason for
// others: what is missing was removed by somebody, and what is too much is not merged.
func (r *simReplica) checkVersions(states map[blockID]markState) {
	r.t.Helper()
	early, got, want := r.early(states), r.versions(), r.model.versionNames()
	for v := range want {
		if !got[v] && !(early && r.s.removed(v)) {
			r.t.Errorf("replica %d has no version %q of %s", r.number, v.key, v.id.Cid())
		}
	}
	for v := range got {
		if !want[v] && !(early && !r.merged[v.id]) && !r.hasPurged {
			r.t.Errorf("replica %d has the version %q of %s, merged %v", r.number, v.key, v.id.Cid(), r.merged[v.id])
		}
	}
}

// versions returns the live versions in the store. No commit may be going on.
func (r *simReplica) versions() map[versionName]bool {
	versions, s := make(map[versionName]bool), r.Datastore.store
	for _, e := range r.rowsUnder("/s/r") {
		rec, err := decodeRecord(e.Value)
		r.must(err)
		key := e.Key[len(s.keys.records):]
		versions[versionName{key, rec.id}] = true
		for e, err := range s.rowsOf(ctx, s.keys.losersOf(key), 1, true) {
			r.must(err)
			_, id, _ := splitID(e.Key)
			versions[versionName{key, id}] = true
		}
	}
	return versions
}

func (m modelSet) versionNames() map[versionName]bool {
	names := make(map[versionName]bool)
	for key, k := range m {
		for id := range k.versions {
			if key != mergedBlocks && !k.tombstones[id] {
				names[versionName{key, id}] = true
			}
		}
	}
	return names
}

// removed reports whether any block ever had a tombstone of a version.
func (s *simulation) removed(v versionName) bool {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for c, raw := range s.net.archive {
		id, err := blockIDOf(c)
		if err != nil {
			continue
		}
		b, err := s.decoder().decode(id, raw)
		if err == nil && slices.ContainsFunc(b.delta.tombstones, func(t *pb.Element) bool {
			removed, ok := parseDsKey(t.GetId())
			return ok && t.GetKey() == v.key && removed == v.id
		}) {
			return true
		}
	}
	return false
}

// logCheckpoints tells what a replica knows of checkpoints, and what it lacks.
func (r *simReplica) logCheckpoints() {
	for id, cp := range r.frontier.checkpoints() {
		r.t.Logf("    checkpoint %s of %q: state %d, height %d, %d entries, %d blocks, done %d, pages with %v and %v", id.Cid(), cp.tip.DAGName, cp.state, cp.tip.Height,
			cp.snapshot.entries, cp.snapshot.blocks, cp.done, r.s.whoHas(cp.snapshot.versions), r.s.whoHas(cp.snapshot.cover))
	}
	for _, id := range r.fetcher.ids() {
		m, err := r.Datastore.store.mark(ctx, id)
		r.must(err)
		r.t.Logf("    wants %s of %q, whose mark is %d, and which is with %v", id.Cid(), r.s.block(id).delta.dagName, m.state, r.s.whoHas(id))
	}
}

// whoHas returns the numbers of the nodes that have a block.
func (s *simulation) whoHas(id blockID) (have []int) {
	for i, node := range s.net.nodes {
		if !node.gone && node.raw(id) != nil {
			have = append(have, i)
		}
	}
	return have
}

// busyWithCheckpoints reports whether a replica has still to do something about
// checkpoints.
func (r *simReplica) busyWithCheckpoints() bool {
	for _, cp := range r.frontier.checkpoints() {
		switch cp.state {
		case checkpointSeen, checkpointHeld, checkpointVoid:
		case checkpointRetired: // until a further call, if that which dropped it was cut off
		default:
			return true
		}
	}
	return false
}

// checkCheckpoints has all DAGs folded, and all replicas drop what they can: no pair
// changes, and all say that they hold the same.
func (s *simulation) checkCheckpoints() {
	s.t.Helper()
	if !s.snapshots {
		return
	}
	for _, dag := range s.dags {
		r := pick(s.rng, s.replicas...)
		if _, err := r.CheckpointDAG(ctx, dag); err != nil && !errors.Is(err, errNoHeads) {
			s.t.Errorf("replica %d: %s", r.number, err)
		}
	}
	s.converge()
	s.checkAll()
	s.checkRoots()
	if !s.drops {
		return
	}
	for _, r := range s.replicas {
		for _, dag := range s.dags {
			_, err := r.CompactDAG(ctx, dag)
			r.must(err)
		}
	}
	s.converge()
	s.checkAll()
	s.checkRoots()
}

func (s *simulation) checkRoots() {
	s.t.Helper()
	roots := make(map[cid.Cid][]int)
	for _, r := range s.replicas {
		root, err := r.StateRoot(ctx)
		r.must(err)
		roots[root] = append(roots[root], r.number)
	}
	if len(roots) > 1 {
		s.t.Errorf("replicas that hold the same have the state roots %v", roots)
	}
}

// checkHonest checks that no snapshot is taken for wrong: nobody lies about these.
func (r *simReplica) checkHonest() {
	r.t.Helper()
	for id, cp := range r.known() {
		if cp.state == checkpointVoid {
			r.t.Errorf("replica %d takes the snapshot of checkpoint %s for wrong", r.number, id.Cid())
		}
	}
}

// checkSnapshots compares the snapshots that a replica holds with what their blocks say.
func (r *simReplica) checkSnapshots() {
	r.t.Helper()
	for id, cp := range r.known().held() {
		cover := r.s.coverOf(cp)
		want := entriesOf(cover)
		var got []*entry
		for e, err := range r.Datastore.blocks.treeEntries(ctx, cp.snapshot.tree(), 0) {
			r.must(err)
			got = append(got, &entry{key: e.key, id: e.id, tombstone: e.tombstone, priority: e.priority, value: slices.Clone(e.value)})
		}
		same := func(a, b *entry) bool {
			return a.compare(b) == 0 && a.priority == b.priority && string(a.value) == string(b.value)
		}
		if !slices.EqualFunc(got, want, same) {
			r.t.Errorf("replica %d: checkpoint %s has %d entries, and its blocks say %d", r.number, id.Cid(), len(got), len(want))
		}
		r.checkCover(cp, cover)
	}
}

func (r *simReplica) checkCover(cp *checkpoint, cover map[blockID]*block) {
	r.t.Helper()
	got, want := make(map[coverID]bool), make(map[coverID]bool)
	for id := range cover {
		want[id.inCover()] = true
	}
	for _, seg := range cp.segments {
		for id, err := range r.Datastore.store.segmentRows(ctx, seg) {
			r.must(err)
			got[id] = true
		}
	}
	if !maps.Equal(got, want) {
		r.t.Errorf("replica %d: checkpoint %s covers %d blocks, and there are %d below it", r.number, cp.id.Cid(), len(got), len(want))
	}
}

// othersCanServe reports whether others can serve all that a replica knows of some DAGs: they
// have the blocks, or hold checkpoints in their place.
func (s *simulation) othersCanServe(leaver *simReplica, dags ...string) bool {
	states := leaver.states()
	served := make(map[blockID]bool)
	for _, r := range s.replicas {
		if r == leaver || r.MerkleCRDT == nil || r.purging != nil {
			continue
		}
		for id, state := range r.states() {
			served[id] = served[id] || state == complete
		}
	}
	for id, state := range states {
		if state.merged() && !served[id] && slices.Contains(dags, s.block(id).delta.dagName) {
			return false
		}
	}
	return true
}

// settle waits until checkpoints are made and history is dropped, as far as that is done
// without being asked for, and what was put off has been done.
func (s *simulation) settle() {
	if !s.snapshots {
		return
	}
	longest := time.Duration(0)
	for _, r := range s.replicas {
		longest = max(longest, r.opts.KeepHistory)
	}
	for range 3 {
		time.Sleep(longest + 2*s.interval)
		synctest.Wait()
		s.converge()
	}
	for range maxPutOffs {
		wait := s.untilNextChore()
		if wait <= 0 {
			return
		}
		time.Sleep(wait)
		synctest.Wait()
		s.converge()
	}
}

// maxPutOffs is how often replicas may put off what they have to do once all is well. A
// check takes as long as pages do not come, and several times as long no other is begun.
const maxPutOffs = 20

// untilNextChore returns how long it is until some replica looks for something to do, as
// far as any has planned to, or is likely to have done what it does now.
func (s *simulation) untilNextChore() (wait time.Duration) {
	for _, r := range s.replicas {
		c := r.checkpointer.chores
		c.mu.Lock()
		switch {
		case c.running: // it may wait for pages that do not come
			wait = max(wait, pagePatience)
		case !c.next.IsZero():
			wait = max(wait, time.Until(c.next)+time.Nanosecond)
		}
		c.mu.Unlock()
	}
	return wait
}
