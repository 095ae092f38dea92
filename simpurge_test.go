package crdt

import (
	"maps"
	"slices"
	"time"

	cid "github.com/ipfs/go-cid"
)

// A purge on the way is one of a single replica, while others have all of the DAG: it
// comes back. A call that fails may have forgotten a part, and is made again before the
// replica writes.

// purgeOne has a replica purge a DAG.
func (s *simulation) purgeOne() {
	s.someUp(func(r *simReplica) {
		if dag := pick(s.rng, s.dags...); r.purging == nil && s.othersCanServe(r, dag) {
			r.purging, r.hasPurged = &dag, true
			r.goOnPurging()
		}
	})
}

// goOnPurging makes a call once more that has failed.
func (r *simReplica) goOnPurging() {
	if r.down || r.purging == nil {
		return
	}
	if err := r.tryToPurge(); err != nil {
		if r.spoilt = true; r.s.well {
			r.t.Errorf("replica %d: a purge fails though all is well: %s", r.number, err)
		}
		return
	}
	r.must(r.committer.acquire(ctx))
	defer r.committer.release()
	r.noticeGone(r.states())
	r.s.keepLost(*r.purging)
	r.purging = nil
}

// keepLost gives the foreign writer the blocks of a DAG that are nowhere any more: they were
// made by a checkpoint, after it was seen that others have what is to be purged, and announced.
// While nothing is dropped some may have to walk, for whom it is not enough that others have
// taken a snapshot in the place of blocks.
func (s *simulation) keepLost(dagName string) {
	known := make(map[blockID]bool)
	for _, r := range s.replicas {
		if !r.down {
			for id := range r.states() {
				known[id] = true
			}
		}
	}
	s.net.mu.Lock()
	archive := maps.Clone(s.net.archive)
	s.net.mu.Unlock()
	for c, raw := range archive {
		id, err := blockIDOf(c)
		if err != nil || known[id] && s.drops || len(s.whoHas(id)) > 0 {
			continue
		}
		if b, err := s.decoder().decode(id, raw); err == nil && b.delta.dagName == dagName {
			s.replicas[0].must(s.foreign.node.addRaw(c, raw))
		}
	}
}

func (r *simReplica) tryToPurge() error {
	if !r.s.well {
		ctx, cancel := r.s.someTime()
		defer cancel()
		_, err := r.PurgeDAG(ctx, *r.purging)
		return err
	}
	for tries := 1; ; tries++ {
		_, err := r.PurgeDAG(ctx, *r.purging)
		if err == nil || !r.IsDirty(ctx) || tries == 20 {
			return err
		}
		if err := r.Repair(ctx); err != nil { // what it has purged may be taken for gaps
			time.Sleep(r.s.interval) // a checkpoint is being taken
		}
	}
}

// noticeGone takes those blocks out of the model that a purge has forgotten.
func (r *simReplica) noticeGone(states map[blockID]markState) {
	gone := make(map[blockID]bool)
	for id := range r.merged {
		if r.purging != nil && !states[id].merged() && r.s.block(id).delta.dagName == *r.purging {
			gone[id] = true
		}
	}
	r.forget(gone)
}

// purge has all replicas purge a DAG or two, while none of them lacks any of it. They go
// on as if these had never been, until their blocks come again.
func (s *simulation) purge() {
	var bringBack []func()
	s.net.split(s.rng.Perm(len(s.net.nodes))...) // or they would come again from those whose turn has not come
	for _, name := range s.dagsToPurge() {
		bringBack = append(bringBack, s.purgeEverywhere(name))
	}
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
	s.rng.Shuffle(len(bringBack), func(i, j int) { bringBack[i], bringBack[j] = bringBack[j], bringBack[i] })
	for _, bring := range bringBack {
		bring()
		s.converge()
		s.checkAll()
	}
}

// dagsToPurge returns one DAG, or two that can come back one after the other.
func (s *simulation) dagsToPurge() []string {
	names := s.rng.Perm(len(s.dags))
	a, b := s.dags[names[0]], s.dags[names[1]]
	if s.rng.IntN(3) == 0 || s.linked(a, b) || s.linked(b, a) {
		return []string{a}
	}
	return []string{a, b}
}

// linked reports whether a block of one DAG links to one of another.
func (s *simulation) linked(from, to string) bool {
	for id := range s.blocksOf(from) {
		for _, link := range s.block(id).links {
			if s.block(link).delta.dagName == to {
				return true
			}
		}
	}
	return false
}

// purgeEverywhere has all replicas purge a DAG.
func (s *simulation) purgeEverywhere(name string) (bringBack func()) {
	purged := s.blocksOf(name)
	for _, r := range s.replicas {
		for _, want := range []int{len(purged), 0} {
			if n, err := r.PurgeDAG(ctx, name); err != nil || n > want || n < want && !s.snapshots {
				s.t.Errorf("replica %d purged %d blocks of %d: %v", r.number, n, want, err)
			}
		}
		r.forget(purged)
	}
	return s.forget(purged)
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

// pages returns the ids of all pages of checkpoints: a corrupted message can make one a block.
func (s *simulation) pages() map[blockID]bool {
	all := make(map[blockID]bool)
	for _, r := range s.replicas {
		ids, err := r.checkpointer.pageIDs(ctx)
		r.must(err)
		maps.Copy(all, ids)
	}
	return all
}

// forget removes blocks from all nodes, also those of replicas that have left, and
// from what is known to the simulation. The foreign writer gets them back, and
// announces them, when the function that it returns is called.
func (s *simulation) forget(ids map[blockID]bool) (bringBack func()) {
	isGone := func(b *block) bool { return ids[b.id] }
	foreign := slices.DeleteFunc(slices.Clone(s.foreign.blocks), func(b *block) bool { return !isGone(b) })
	s.lastWords = slices.DeleteFunc(s.lastWords, func(id blockID) bool { return ids[id] })
	s.foreign.blocks = slices.DeleteFunc(s.foreign.blocks, isGone)
	maps.DeleteFunc(s.acked, func(id blockID, _ bool) bool { return ids[id] })
	pages := s.pages()
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for _, node := range s.net.nodes {
		maps.DeleteFunc(node.blocks, func(c cid.Cid, _ []byte) bool {
			id, err := blockIDOf(c)
			return err == nil && ids[id] && !pages[id]
		})
	}
	return func() {
		s.foreign.blocks = append(s.foreign.blocks, foreign...)
		for id := range ids {
			s.acked[id] = true
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
	if len(ids) == 0 {
		return
	}
	r.model = make(modelSet)
	for n := range r.removed {
		r.model.key(n.key).tombstones[n.id] = true
	}
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
				setIn(&r.removed, versionName{t.GetKey(), removed}, true)
			}
		}
	}
}
