package crdt

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// disturbances are what a step may do beside writing.
var disturbances = []weighted[func(*simulation)]{
	{4, (*simulation).dieSoon},
	{4, (*simulation).failSoon},
	{2, (*simulation).crash},
	{2, (*simulation).restart},
	{3, (*simulation).split},
	{2, (*simulation).changeWeather},
	{2, (*simulation).join},
	{1, (*simulation).leave},
	{2, (*simulation).peersCome},
	{1, (*simulation).repair},
	{6, (*simulation).foreignBlocks},
	{3, (*simulation).lie},
}

// lies are the attacks that leave nothing missing for ever: in the end all
// replicas are to have the same. TestHostilePeer has the others.
var lies = []func(*liar, *rand.Rand){escapingKeys, foreignIDs, garbage, cyclesInNames, otherCIDs, oddNodes}

func (s *simulation) lie() {
	some := lies
	if s.snapshots {
		some = lies[1:] // with keys of the greatest length, small pages would have one child each
	}
	pick(s.rng, some...)(s.liar, s.rng)
}

// anyUp returns a replica that runs, or nil.
func (s *simulation) anyUp() *simReplica {
	var up []*simReplica
	for _, r := range s.replicas {
		if r.reap(); !r.down {
			up = append(up, r)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return pick(s.rng, up...)
}

// someUp calls f with a replica that runs, if there is one.
func (s *simulation) someUp(f func(*simReplica)) {
	if r := s.anyUp(); r != nil {
		f(r)
	}
}

// reviveSome starts some of the replicas that do not run, at times on a store
// that dies once more.
func (s *simulation) reviveSome() {
	for _, r := range s.replicas {
		if r.sleeps--; r.sleeps > 0 && r.down {
			continue
		}
		if r.reap(); !r.down || s.rng.IntN(2) == 0 {
			continue
		}
		if s.rng.IntN(4) == 0 {
			r.faults.dieAfter(s.rng.IntN(8))
		}
		r.start()
	}
}

func (s *simulation) dieSoon() {
	s.someUp(func(r *simReplica) { r.faults.dieAfter(s.rng.IntN(25)) })
}

func (s *simulation) failSoon() {
	s.someUp(func(r *simReplica) { r.faults.failIn(s.rng.IntN(25), pick(s.rng, 1, 1, 4), s.rng.IntN(2) == 0) })
}

func (s *simulation) crash() { s.someUp((*simReplica).crash) }

func (s *simulation) restart() {
	s.someUp(func(r *simReplica) { r.stop(); r.start() })
}

func (s *simulation) split() {
	parts := make([]int, len(s.net.nodes))
	for i := range parts {
		parts[i] = s.rng.IntN(3)
	}
	if s.rng.IntN(3) == 0 {
		parts = nil
	}
	s.net.split(parts...)
	s.peersCome()
}

func (s *simulation) peersCome() {
	for _, r := range s.replicas {
		if r.down || s.rng.IntN(2) == 0 {
			continue
		}
		select {
		case r.peer.joined <- struct{}{}:
		default:
		}
	}
}

func (s *simulation) changeWeather() { s.net.weather(s.badWeather()) }

func (s *simulation) join() {
	if len(s.replicas) < maxSimReplicas {
		s.newSimReplica().start()
		s.peersCome()
	}
}

// leave ends a replica for ever. Its DAG service goes with it if all its blocks
// are with others. If not, it stays: what is nowhere cannot be fetched.
func (s *simulation) leave() {
	r := s.anyUp()
	if r == nil || len(s.replicas) <= 2 {
		return
	}
	heads, _ := r.frontier.tips()
	s.lastWords = append(s.lastWords, heads.ids()...)
	r.stop()
	s.checkLeft(r)
	s.replicas = slices.DeleteFunc(s.replicas, func(other *simReplica) bool { return other == r })
	gone := s.drops && s.othersCanServe(r, s.dags...)
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	r.node.gone = gone || !s.drops && s.net.othersHaveAllLocked(r.node)
}

func (n *testNet) othersHaveAllLocked(leaver *testNode) bool {
	for c := range leaver.blocks {
		found := false
		for _, node := range n.nodes {
			found = found || node != leaver && !node.gone && node.blocks[c] != nil
		}
		if !found {
			return false
		}
	}
	return true
}

// repair asks for a repair, which may fail or take too long.
func (s *simulation) repair() {
	s.someUp(func(r *simReplica) {
		r.MarkDirty(ctx)
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if r.Repair(ctx) == nil && r.opts.RepairInterval == 0 && r.IsDirty(ctx) && !r.faults.failing() {
			s.t.Errorf("replica %d is dirty after a repair", r.number)
		}
	})
}

func (s *simulation) foreignBlocks() { s.foreign.write() }
