package crdt

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A schedulerTest drives a scheduler by hand. Its time stands still unless it is
// told to pass.
type schedulerTest struct {
	*scheduler
	t    *testing.T
	now  time.Time
	made int
	open []*request
	cut  map[*request]bool
}

func newSchedulerTest(t *testing.T, slots int) *schedulerTest {
	return &schedulerTest{scheduler: newScheduler(slots, time.Minute), t: t, now: time.Unix(1e9, 0), cut: make(map[*request]bool)}
}

func (s *schedulerTest) newID() blockID { s.made++; return testIDOf(s.made) }

// newGroupOf starts a group of announced blocks.
func (s *schedulerTest) newGroupOf(n int) *fetchGroup {
	return s.newGroupAnd(n)
}

// newGroupAnd starts a group of some more that were announced with these.
func (s *schedulerTest) newGroupAnd(n int, others ...link) *fetchGroup {
	g := s.newGroup()
	g.heads = n + len(others)
	for range n {
		s.announce(g, link{id: s.newID()})
	}
	for _, l := range others {
		s.announce(g, l)
	}
	return g
}

// wants has a group want so many more blocks.
func (s *schedulerTest) wants(g *fetchGroup, n int) {
	for range n {
		s.want(s.now, g, wanted{id: s.newID(), height: 1})
	}
}

// ask makes the requests that are to be made now.
func (s *schedulerTest) ask() (made []*request) {
	for r := s.next(s.now); r != nil; r = s.next(s.now) {
		r.cancel = func() { s.cut[r] = true }
		made = append(made, r)
	}
	s.open = append(s.open, made...)
	if len(s.missing) < 256 { // it looks at all of them
		s.scheduler.check()
	}
	return made
}

// come answers a request, and has its block merged.
func (s *schedulerTest) come(r *request) {
	wanted := s.answered(r)
	s.ended(s.now, r, false)
	if wanted {
		s.remove(r.block)
	}
}

func (s *schedulerTest) pass(d time.Duration) { s.now = s.now.Add(d); s.tick(s.now) }

// A group that has brought much keeps half of the slots, but for what it leaves free,
// whatever others want.
func TestProvenGroupHasHalfOfTheSlots(t *testing.T) {
	s := newSchedulerTest(t, 160)
	honest := s.newGroupOf(1)
	for range provenAt {
		for _, r := range s.ask() {
			s.come(r)
			s.wants(honest, 2)
		}
	}
	if honest.pool != &s.proven {
		t.Fatalf("%d blocks have come", honest.came)
	}
	for range 1000 {
		s.wants(s.newGroupOf(1), 50)
	}
	s.wants(honest, 1000)
	for range 100 {
		s.ask()
		if honest.held < s.slots/2*greed/(greed+1) {
			t.Fatalf("it has %d slots", honest.held)
		}
		for _, r := range s.open {
			if r.group == honest && s.answered(r) {
				s.ended(s.now, r, false)
				s.remove(r.block)
				s.wants(honest, 1)
			}
		}
		s.pass(haste)
	}
}

// Announcements of nothing do not keep the next one waiting, nor do dead links.
func TestNewestAnnouncementIsAskedForAtOnce(t *testing.T) {
	for name, crowd := range map[string]func(*schedulerTest){
		"links":         func(s *schedulerTest) { s.wants(s.newGroupOf(1), 10_000) },
		"announcements": func(s *schedulerTest) { s.newGroupOf(maxAnnounced) },
		"groups": func(s *schedulerTest) {
			for range 10_000 {
				s.wants(s.newGroup(), 3)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedulerTest(t, 160)
			crowd(s)
			for range 50 {
				s.ask()
				news := s.newGroupOf(1)
				for range 3 { // of four turns one is another's
					s.pass(haste)
					s.ask()
				}
				if news.held+news.slow == 0 {
					t.Fatal("it has not been asked for")
				}
			}
		})
	}
}

// A group that is alone has most of the slots, and those that come share them.
func TestGroupsShareSlots(t *testing.T) {
	for n := 1; n <= 20; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newSchedulerTest(t, 160)
			var groups []*fetchGroup
			for range n {
				g := s.newGroupOf(1)
				g.came = 10 * s.slots
				s.classify(g)
				s.wants(g, 300)
				groups = append(groups, g)
			}
			for range 50 * s.slots { // until it has settled
				s.ask()
				i := rand.IntN(len(s.open))
				s.come(s.open[i])
				s.open = append(s.open[:i], s.open[i+1:]...)
				s.wants(groups[rand.IntN(n)], 1)
			}
			s.ask()
			share := s.proven.size / (n + 1)
			for _, g := range groups {
				if g.held < share/2 {
					t.Errorf("a group has %d slots, its share is %d", g.held, share)
				}
			}
		})
	}
}

// When there are too many slow requests, those of the group that has most go first,
// and none of a group that gets what it asks for.
func TestSlowRequestsAreCutOffWhereThereAreMost(t *testing.T) {
	s := newSchedulerTest(t, 160)
	honest := s.newGroup()
	honest.came = 1000
	s.classify(honest)
	s.wants(honest, 50)
	s.ask()
	s.pass(patience)
	for range 100 {
		s.newGroupOf(40)
		s.ask()
		s.pass(haste)
	}
	if honest.slow != 50 || s.slow.Len() != maxSlow {
		t.Errorf("of %d slow requests %d are those of the honest group", s.slow.Len(), honest.slow)
	}
}

// One that has lost its block counts no more.
func TestRequestThatIsOutdatedChangesNothing(t *testing.T) {
	s := newSchedulerTest(t, 32)
	g := s.newGroupOf(1)
	old := s.ask()[0]
	b := old.block
	if !s.answered(old) {
		t.Fatal("it is not wanted")
	}
	s.fail(s.now, b) // the merger could not, before the request ended
	s.pass(time.Minute)
	second := s.ask()[0]
	s.pass(patience)
	s.ended(s.now, old, false)
	if second.block != b || b.request != second || b.state != requested || g.slow != 1 {
		t.Errorf("state %d, %d slow requests", b.state, g.slow)
	}
	s.remove(b)
	if !s.cut[second] || s.cut[old] {
		t.Error("the wrong request was cut off")
	}
	s.ended(s.now, second, true)
	s.scheduler.check()
	if s.held+s.slow.Len() > 0 {
		t.Errorf("%d slots and %d slow places are held for nothing", s.held, s.slow.Len())
	}
}

// Whatever happens, in whatever order, lists and counters agree, and in the end
// nothing is held.
func TestSchedulerInvariants(t *testing.T) {
	for seed := range uint64(200) {
		s := newSchedulerTest(t, 32)
		rng := rand.New(rand.NewPCG(seed, 1))
		x := &schedulerChaos{schedulerTest: s, rng: rng, classes: newSizeClasses(1)}
		for range 300 {
			x.step()
			s.scheduler.check()
		}
		for _, b := range s.missing {
			s.remove(b)
		}
		for _, r := range s.open {
			s.ended(s.now, r, rng.IntN(2) == 0)
		}
		for _, room := range x.rooms {
			s.release(&room)
		}
		s.scheduler.check()
		if n := s.held + s.slow.Len() + len(s.parked) + s.scheduler.announced.Len() + s.valued; n > 0 || x.classes.large.used > 0 || len(x.classes.large.crowd.lines) > 0 {
			t.Fatalf("seed %d: %d are left, and %d bytes", seed, n, x.classes.large.used)
		}
	}
}

// schedulerChaos does anything that a fetcher and a merger may do.
type schedulerChaos struct {
	*schedulerTest
	rng     *rand.Rand
	classes *sizeClasses
	groups  []*fetchGroup
	merging []*missingBlock
	rooms   []reservation
}

func (x *schedulerChaos) step() {
	if len(x.groups) == 0 {
		x.groups = append(x.groups, x.newGroupOf(1+x.rng.IntN(5)))
	}
	g := x.groups[x.rng.IntN(len(x.groups))]
	switch x.rng.IntN(10) {
	case 0:
		x.groups = append(x.groups, x.newGroupOf(1+x.rng.IntN(5)))
	case 1:
		x.wants(g, 1+x.rng.IntN(30))
	case 2:
		x.want(x.now, g, wanted{id: testIDOf(1 + x.rng.IntN(x.made)), height: x.rng.Uint64N(100)})
	case 3:
		x.announce(g, link{id: testIDOf(1 + x.rng.IntN(x.made))})
		x.kick(x.now)
	case 4:
		x.pass(time.Duration(x.rng.IntN(500)) * time.Millisecond)
	case 5:
		x.removeAll(map[blockID]bool{testIDOf(1 + x.rng.IntN(x.made)): true}, []blockID{testIDOf(1 + x.rng.IntN(x.made))})
	case 6:
		x.ask()
	case 7:
		if id := testIDOf(1 + x.rng.IntN(x.made)); x.missing[id] == nil || x.missing[id].state != arrived {
			b := &missingBlock{id: id, group: g}
			x.arrive(b)
			x.merging = append(x.merging, b)
		}
	case 8:
		x.endRequest()
	case 9:
		x.merge()
	}
}

// endRequest ends a request: it fails, or its block comes, for which there may be room.
func (x *schedulerChaos) endRequest() {
	if len(x.open) == 0 {
		return
	}
	i := x.rng.IntN(len(x.open))
	r := x.open[i]
	x.open = append(x.open[:i], x.open[i+1:]...)
	failed := x.cut[r] || x.rng.IntN(3) == 0
	if !failed {
		if room, ok := x.reserve(r, reservation{x.classes.large, largeRoom / (1 + x.rng.Int64N(8))}); ok {
			x.rooms = append(x.rooms, room)
			if x.answered(r) {
				x.merging = append(x.merging, r.block)
			}
		}
	}
	x.ended(x.now, r, failed)
}

// merge merges a block, or fails, or finds that it needs values, and gives room back.
func (x *schedulerChaos) merge() {
	if n := len(x.rooms); n > 0 {
		x.release(&x.rooms[n-1])
		x.rooms = x.rooms[:n-1]
	}
	if len(x.merging) == 0 {
		return
	}
	b := x.merging[0]
	x.merging = x.merging[1:]
	switch x.rng.IntN(3) {
	case 0:
		x.remove(b)
	case 1:
		x.fail(x.now, b)
	case 2:
		if x.reserveValues(b) {
			x.retry(b, map[versionName]*loser{})
		} else {
			x.fail(x.now, b)
		}
	}
}

// A block that comes though little else of its group does has a group of its own, so that
// what is below it need not wait among lies.
func TestBlockThatComesLeavesHopelessGroup(t *testing.T) {
	s := newSchedulerTest(t, 160)
	lies := s.newGroupOf(20)
	for range 20 {
		s.ask()
		s.pass(haste)
	}
	first := s.open[0]
	b := first.block
	if !s.answered(first) || b.group == lies || b.group.pool != &s.hopeful {
		t.Fatal("it is still among them")
	}
	s.ended(s.now, first, false)
	s.scheduler.check()
	s.wants(b.group, 1)
	s.remove(b)
	for _, r := range s.ask() {
		if r.group == b.group {
			return
		}
	}
	t.Error("what it links to waits")
}

// What is announced again with less company goes into the smaller group.
func TestAnnouncedBlockLeavesLargerGroup(t *testing.T) {
	s := newSchedulerTest(t, 32)
	s.newGroupOf(1000)
	honest := link{id: testIDOf(s.made)}
	again := s.newGroupAnd(0, honest)
	if again.blocks != 1 {
		t.Error("it is still among others")
	}
	s.newGroupAnd(1000, honest)
	if again.blocks != 1 {
		t.Error("it has been taken into a larger group")
	}
	s.scheduler.check()
	for _, r := range s.ask() {
		if r.group == again {
			return
		}
	}
	t.Error("it waits")
}

// On a slow link no group cuts off what it has asked for first, or nothing would come.
func TestGroupDoesNotCutOffItsOwnOldRequests(t *testing.T) {
	s := newSchedulerTest(t, 160)
	s.newGroupOf(2000)
	s.ask()
	for range maxSlowAge / haste {
		if s.cut[s.open[0]] {
			t.Fatalf("cut off after %s", s.now.Sub(s.open[0].since))
		}
		s.pass(haste)
		s.ask()
	}
}

// Blocks that have queue rows at a start get their turns, however many others are announced
// meanwhile that nobody has.
func TestRestoredBlocksAreAskedForBesideAnnouncements(t *testing.T) {
	const rows = 500
	s := newSchedulerTest(t, 160)
	var restored []wanted
	for range rows {
		restored = append(restored, wanted{id: s.newID()})
	}
	s.newGroupOf(maxAnnounced)
	s.restore(s.now, restored, true)
	asked := make(map[blockID]bool)
	for range 2 * time.Minute / haste {
		s.newGroupOf(1)
		s.kick(s.now)
		for range 29 {
			s.newGroupOf(1)
		}
		for _, r := range s.ask() {
			asked[r.block.id] = true
		}
		s.pass(haste)
		for r := range s.cut {
			s.ended(s.now, r, true)
		}
		clear(s.cut)
		s.open = nil
	}
	for _, w := range restored {
		if !asked[w.id] {
			t.Fatalf("%v has not been asked for", w.id)
		}
	}
}
