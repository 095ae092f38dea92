package crdt

import (
	"container/heap"
	"container/list"
	"math/rand/v2"
	"time"
)

// Limits of the scheduler. What does not fit stays in the store, as queue rows,
// or is announced again by those who have it.
const (
	fetchesPerWorker = 32       // slots for each of Options.NumWorkers
	maxSlow          = 512      // requests that have outlived patience
	maxMissing       = 64 << 10 // blocks
	maxAnnounced     = 4096     // of these, announced and not seen yet
	maxValued        = 64       // of these, that have values, or wait for them

	patience   = 300 * time.Millisecond // how long a request keeps its slot
	haste      = 100 * time.Millisecond // likewise, where little has come yet
	maxSlowAge = 10 * time.Second       // older slow requests may be cut off
	maxUnread  = time.Minute            // how long queue rows of blocks that are not known wait at most

	minBackoff  = 100 * time.Millisecond
	kickPause   = time.Second
	maxAttempts = 8 // for a block that was announced and never seen

	greed     = 7 // slots that a group may hold for each one that it leaves free
	newsTurns = 4 // of so many turns all but one are the newest's
)

// A scheduler decides which missing block is asked for next. It is pure policy:
// it starts nothing and waits for nothing. The fetcher, whose mutex guards it,
// tells it what happens and when, and makes the requests that next returns.
//
// # What is shared, and who could starve whom
//
// Requests hold slots, of which there are few (160 by default), and a block that
// nobody has is never answered for. Announcements cost nothing, and say nothing of
// where they come from. So whoever is let have a slot on the strength of an
// announcement, or of a link, can hold it in vain: one small block with a thousand
// dead links, or three hundred announcements a second of CIDs that nobody has,
// would keep all others out. Four rules see to it that they do not.
//
//   - Patience. A request that has not been answered in time gives its slot to the
//     next, and goes on beside it as a slow one: on a slow link blocks do come,
//     only later. There is room for so many slow requests. When that is full, the
//     oldest one is cut off of the group that has most; groups of which nothing has
//     come count as one. None goes for a later one of its own group, unless it is very
//     old: on a slow link, cut off and begun again and again, none would ever come.
//   - Turns. The blocks that one announcement leads to are a group, and groups
//     take turns (fairQueue). Within a group the highest block is first: news
//     before history.
//   - Proof. A group is hopeful if more than twice as many of its blocks have come
//     as have been asked for in vain, and proven if these are 8 at least. The proven
//     groups may hold three quarters of the slots, those that are hopeful one, and
//     all others one. So an honest history that is under way has half of the slots
//     against any number of announcements and dead links, and announcements have a
//     quarter of what histories leave. To have turns among the hopeful a liar must
//     serve three blocks for each request that comes to nothing.
//   - Modesty. A group may hold greed times as many slots as it leaves free for
//     others in its pool (the dynamic thresholds of Choudhury and Hahne for shared
//     buffers). So there is a free slot for who comes next, who need not wait for
//     patience to run out.
//
// Among groups of which nothing has come, most turns are those of the newest: an
// announcement is asked for at once, though thousands of dead ones may wait. An
// announcement that is repeated makes its group the newest again. To serve only the
// newest would starve whoever is not, and to serve them in turn alone makes updates
// wait for all lies before them. As such requests keep their slots for haste, some 400
// a second can be made (80 for each of Options.NumWorkers). Beyond that a new history
// has to be announced several times until it is under way.
//
// A liar can announce an honest block, or link to it, beside thousands of dead ones.
// That keeps it in bad company until somebody better wants it: a more hopeful group
// that links to it takes it over, and so does a smaller announcement. If it comes
// first, it leaves with what is below it, as a group of its own. So does a block that
// is inline. Within a group, what has failed waits for what has not been tried.
//
// A block that has been fetched and finds no room in memory is not kept
// (sizeclass.go). It is asked for again when room is held for it, and then goes
// before all others, since it keeps the room from them: a quarter of the slots are
// for such blocks at most.
//
// Failed requests are tried again with a growing pause, or when a peer comes or an
// unknown block is announced, which may happen once a second: any peer can make it.
//
// # What does not help
//
// To let the newest group have all it wants, as was tried first, is a way in for
// floods of announcements. So is the turn of each group alone, without proof: a liar
// has as many groups as it likes. With two pools, of proven groups and others, a
// history is stuck among the lies until its eighth block. To measure the round trip
// lets a liar who is slow teach patience with blocks that never come. A limit for each
// peer would be best, but a Broadcaster does not say who speaks, and a DAG service not
// who answers. Whoever really serves the blocks of many histories has the turns of so
// many writers.
type scheduler struct {
	slots      int
	maxBackoff time.Duration

	missing   map[blockID]*missingBlock
	urgent    pool       // blocks that keep room or memory from others
	proven    pool       // blocks of groups of which much has come
	hopeful   pool       // of which something has
	unknown   pool       // all others
	held      int        // slots, of all pools
	slow      list.List  // of *request: those without slots, oldest first
	parked    parkedHeap // blocks that failed
	announced list.List  // of *missingBlock: those that were announced and not seen yet, oldest first
	valued    int        // blocks that have values, or have them read
	kicked    time.Time
	unreadAt  time.Time // when the queue rows must be read, as not all are known; or zero
}

// A pool is the groups that share a number of slots.
type pool struct {
	fairQueue[*fetchGroup, *missingBlock]
	size     int           // slots that they may hold
	patience time.Duration // how long each of them is kept
	holding  list.List     // of *request: those that hold one, in the order of since
	turn     int
}

func newScheduler(slots int, maxBackoff time.Duration) *scheduler {
	s := &scheduler{slots: slots, maxBackoff: maxBackoff, missing: make(map[blockID]*missingBlock)}
	for _, p := range s.pools() {
		p.before = (*missingBlock).before
		p.size, p.patience = slots/4, patience
	}
	s.proven.size = slots - slots/4
	s.unknown.patience, s.hopeful.patience = haste, haste
	return s
}

// pools returns the pools, those first whose turn comes first.
func (s *scheduler) pools() []*pool { return []*pool{&s.urgent, &s.proven, &s.hopeful, &s.unknown} }

func (s *scheduler) newGroup() *fetchGroup { return &fetchGroup{pool: &s.unknown} }

// announce has an announced block fetched that has not been merged.
func (s *scheduler) announce(g *fetchGroup, l link) {
	if b := s.missing[l.id]; b != nil {
		b.linked(l.v0)
		if g.heads < b.group.blocks { // or it might wait behind lies that were announced with it
			s.adopt(g, b)
		}
		s.promote(b.group)
		return
	}
	b := s.enter(&missingBlock{id: l.id, group: g, height: anyHeight, v0: l.v0})
	s.wait(b)
	b.announced = s.announced.PushBack(b)
	if s.announced.Len() > maxAnnounced {
		s.remove(s.announced.Front().Value.(*missingBlock))
	}
}

// arrive takes a block that came with its announcement, in the place of a request
// for it.
func (s *scheduler) arrive(b *missingBlock) {
	if old := s.missing[b.id]; old != nil {
		b.queued = old.queued
		s.remove(old)
	}
	b.state = arrived
	s.enter(b)
}

// want has the block fetched that a merged one links to.
func (s *scheduler) want(now time.Time, g *fetchGroup, w wanted) {
	if b := s.missing[w.id]; b != nil {
		b.linked(w.v0)
		b.queued = true
		s.unlist(b)
		if g.pool != &s.unknown {
			s.adopt(g, b)
		}
		return
	}
	if len(s.missing) >= maxMissing {
		s.readLater(now)
		if !s.displace(g) {
			return
		}
	}
	s.wait(s.enter(&missingBlock{id: w.id, group: g, height: w.height, v0: w.v0, queued: true}))
}

// adopt takes a block into a group that is linked to it, or announced with less, so
// that it need not wait among those that nobody may have.
func (s *scheduler) adopt(g *fetchGroup, b *missingBlock) {
	if b.state != waiting && b.state != parked || b.group.pool != &s.unknown {
		return
	}
	s.regroup(b, g)
	if b.state == waiting {
		s.wait(b)
	}
}

func (s *scheduler) regroup(b *missingBlock, to *fetchGroup) {
	s.trust(b)
	b.group.blocks--
	b.group.endIfDone()
	b.group = to
	to.blocks++
}

// displace makes room for a block of a group: in the place of one that failed,
// since the newcomer may come, or of one that waits in a much longer line, as no
// group may keep others out.
func (s *scheduler) displace(g *fetchGroup) bool {
	if n := len(s.parked); n > 0 {
		s.remove(s.parked[n-1])
		return true
	}
	for _, p := range s.pools()[1:] {
		if last := p.last(); last != nil && p.length(last.line.owner) > 2*g.pool.length(g) {
			s.remove(last.item)
			return true
		}
	}
	return false
}

// readLater has the queue rows read after a while.
func (s *scheduler) readLater(now time.Time) {
	if s.unreadAt.IsZero() {
		s.unreadAt = now.Add(min(max(s.maxBackoff, time.Second), maxUnread))
	}
}

func (s *scheduler) enter(b *missingBlock) *missingBlock {
	s.missing[b.id] = b
	b.group.blocks++
	return b
}

// become takes a block from one state to another. Whoever calls it puts it into
// the list of the new one.
func (s *scheduler) become(b *missingBlock, to blockState) {
	switch b.state {
	case waiting, crowded:
		if b.place != nil {
			b.place.take()
			b.place, b.needs = nil, reservation{}
		}
	case requested:
		if to == removed {
			b.request.cancel()
		}
		b.request = nil
	case parked:
		heap.Remove(&s.parked, b.at)
	}
	b.state = to
}

// wait makes a block wait for a slot.
func (s *scheduler) wait(b *missingBlock) {
	s.become(b, waiting)
	p := b.group.pool
	if b.urgent() {
		p = &s.urgent
	}
	b.place = p.add(b.group, b)
	if b.attempts == 0 {
		s.promote(b.group)
	}
}

// promote makes a group the newest of its pool, if nothing has come yet. Others have
// no need.
func (s *scheduler) promote(g *fetchGroup) { s.unknown.promote(g) }

// next returns the request to make now, or nil.
func (s *scheduler) next(now time.Time) *request {
	for _, p := range s.pools() {
		if place := p.next(min(p.size-p.holding.Len(), s.slots-s.held)); place != nil {
			return s.request(now, p, place.item)
		}
	}
	return nil
}

// next returns the place whose turn it is, when so many slots are free.
func (p *pool) next(free int) *place[*fetchGroup, *missingBlock] {
	if free <= 0 {
		return nil
	}
	may := func(g *fetchGroup) bool { return g.held < greed*free }
	if p.turn++; p.turn%newsTurns != 0 {
		if newest := p.newest(may); newest != nil {
			return newest
		}
	}
	return p.first(may)
}

// answered is for a request whose block has come. It reports whether that is
// wanted still; from now on it is with the merger.
func (s *scheduler) answered(r *request) bool {
	b := r.block
	if b.request != r {
		return false
	}
	s.become(b, arrived)
	s.unlist(b)
	s.trust(b)
	s.credit(b.group)
	if b.group.came < b.group.doubted { // mostly lies
		s.regroup(b, s.newGroup())
		s.credit(b.group)
	}
	s.promote(b.group)
	return true
}

// credit notes that a block of a group has come.
func (s *scheduler) credit(g *fetchGroup) {
	g.came++
	s.classify(g)
}

// doubt notes that a block has been asked for in vain.
func (s *scheduler) doubt(b *missingBlock) {
	if !b.doubted {
		b.doubted = true
		b.group.doubted++
		s.classify(b.group)
	}
}

// trust takes that back: it has come, or is another group's to ask for.
func (s *scheduler) trust(b *missingBlock) {
	if b.doubted {
		b.doubted = false
		b.group.doubted--
	}
}

// classify puts a group into the pool where it belongs.
func (s *scheduler) classify(g *fetchGroup) {
	to := &s.unknown
	switch {
	case !g.hopeful():
	case g.came < provenAt:
		to = &s.hopeful
	default:
		to = &s.proven
	}
	if to != g.pool {
		g.pool.move(g, &to.fairQueue)
		g.pool = to
	}
}

// fail parks a block until it is worth another try. It reports whether it is
// given up instead.
func (s *scheduler) fail(now time.Time, b *missingBlock) (givenUp bool) {
	if b.state == removed {
		return false
	}
	s.release(&b.room)
	s.clearValues(b)
	b.attempts++
	if !b.queued && b.attempts >= maxAttempts {
		s.remove(b)
		return true
	}
	s.become(b, parked)
	b.retryAt = now.Add(s.backoff(b.attempts))
	heap.Push(&s.parked, b)
	return false
}

func (s *scheduler) backoff(attempts int) time.Duration {
	d := min(minBackoff<<min(attempts, 16), s.maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// kick tries all parked blocks again, once a second at most.
func (s *scheduler) kick(now time.Time) {
	if now.Sub(s.kicked) < kickPause {
		return
	}
	s.kicked = now
	for n := len(s.parked); n > 0; n-- {
		s.wait(s.parked[n-1])
	}
}

func (s *scheduler) unpark(now time.Time) {
	for len(s.parked) > 0 && !s.parked[0].retryAt.After(now) {
		s.wait(s.parked[0])
	}
}

// tick does what is due by now. It reports whether the queue rows must be read.
func (s *scheduler) tick(now time.Time) (unread bool) {
	s.unpark(now)
	for _, p := range s.pools() {
		for r := p.oldest(); r != nil && now.Sub(r.since) >= p.patience; r = p.oldest() {
			s.outlive(now, r)
		}
	}
	unread = !s.unreadAt.IsZero() && !s.unreadAt.After(now)
	if unread {
		s.unreadAt = time.Time{}
	}
	return unread
}

// due returns when tick is to be called next, or zero: never.
func (s *scheduler) due() time.Time {
	at := s.unreadAt
	if len(s.parked) > 0 {
		at = earlier(at, s.parked[0].retryAt)
	}
	for _, p := range s.pools() {
		if r := p.oldest(); r != nil {
			at = earlier(at, r.since.Add(p.patience))
		}
	}
	return at
}

// oldest returns the request that has held its slot longest, or nil.
func (p *pool) oldest() *request {
	if e := p.holding.Front(); e != nil {
		return e.Value.(*request)
	}
	return nil
}

// earlier returns the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// retry asks again for a block, which is here, once the values have been read that
// merging it needs.
func (s *scheduler) retry(b *missingBlock, values map[versionName]*loser) {
	if b.state != removed {
		b.values = values
		s.wait(b)
	}
}

// reserveValues lets values be read for a block, unless many have some already.
func (s *scheduler) reserveValues(b *missingBlock) bool {
	if !b.valued && b.state != removed && s.valued < maxValued {
		b.valued = true
		s.valued++
	}
	return b.valued
}

// clearValues is for a block that is not with the merger, which reads them.
func (s *scheduler) clearValues(b *missingBlock) {
	b.values = nil
	s.unreserveValues(b)
}

func (s *scheduler) unreserveValues(b *missingBlock) {
	if b.valued {
		b.valued = false
		s.valued--
	}
}

// remove removes a block in whatever state it is. The merger may go on reading its
// values.
func (s *scheduler) remove(b *missingBlock) {
	if b.state == removed {
		return
	}
	s.become(b, removed)
	s.release(&b.room)
	s.unreserveValues(b)
	s.unlist(b)
	delete(s.missing, b.id)
	b.group.blocks--
	b.group.endIfDone()
}

func (s *scheduler) unlist(b *missingBlock) {
	if b.announced != nil {
		s.announced.Remove(b.announced)
		b.announced = nil
	}
}

// removeAll removes blocks that are being purged, and those that are not wanted any
// more, unless these have arrived.
func (s *scheduler) removeAll(purged map[blockID]bool, unwanted []blockID) {
	for id, b := range s.missing {
		if purged[id] {
			s.remove(b)
		}
	}
	for _, id := range unwanted {
		if b := s.missing[id]; b != nil && b.state != arrived {
			s.remove(b)
		}
	}
}

// asksInVain reports whether a linked block has failed as often as makes an announced one
// be given up, or has been asked for very long. How high it is said to be does not matter:
// a peer may say anything.
func (s *scheduler) asksInVain(now time.Time) bool {
	for _, b := range s.missing {
		slow := b.state == requested && now.Sub(b.request.since) > maxSlowAge
		if b.queued && (slow || b.attempts >= maxAttempts) {
			return true
		}
	}
	return false
}

// restore takes up blocks that have queue rows, all of them or a part. Nothing is
// known of what they have to do with each other: each is a group of its own, and
// nobody's may be asked for first, so their heights are not looked at.
func (s *scheduler) restore(now time.Time, rows []wanted, all bool) {
	if !all {
		s.readLater(now)
		s.removeParked()
	}
	for _, w := range rows {
		w.height = 0
		s.want(now, s.newGroup(), w)
	}
}

// removeParked makes room for others that may come.
func (s *scheduler) removeParked() {
	for _, b := range append(parkedHeap(nil), s.parked...) {
		if b.queued {
			s.remove(b)
		}
	}
}

// check panics if lists and counters do not agree. See invariants.
func (s *scheduler) check() {
	held, slow, doubted := make(map[*fetchGroup]int), make(map[*fetchGroup]int), make(map[*fetchGroup]int)
	all, announced, valued := 0, 0, 0
	for _, p := range s.pools() {
		for e := p.holding.Front(); e != nil; e = e.Next() {
			held[e.Value.(*request).group]++
			all++
		}
		mustHold(p.holding.Len() <= p.size, "a pool holds more slots than it may")
	}
	for e := s.slow.Front(); e != nil; e = e.Next() {
		slow[e.Value.(*request).group]++
	}
	mustHold(all == s.held && all <= s.slots, "a wrong number of slots is held")
	for id, b := range s.missing {
		mustHold(b.id == id && b.state != removed && b.listed(), "a block is not in the list of its state")
		mustHold(b.group.held == held[b.group] && b.group.slow == slow[b.group], "a group has a wrong number of requests")
		if b.doubted {
			doubted[b.group]++
		}
		if b.announced != nil {
			announced++
		}
		if b.valued {
			valued++
		}
	}
	for g, n := range doubted {
		mustHold(n <= g.doubted, "too few blocks are doubted")
	}
	mustHold(announced == s.announced.Len() && announced <= maxAnnounced, "a wrong number of blocks is announced")
	mustHold(valued == s.valued && valued <= maxValued, "a wrong number of blocks has values")
	mustHold(s.slow.Len() <= maxSlow && len(s.missing) <= maxMissing+maxAnnounced, "a limit is exceeded")
}

// listed reports whether a block is in the list of its state, and in no other.
func (b *missingBlock) listed() bool {
	return (b.place != nil && b.place.item == b) == (b.state == waiting || b.state == crowded) &&
		(b.request != nil && b.request.block == b) == (b.state == requested) &&
		(b.needs.class != nil) == (b.state == crowded)
}
