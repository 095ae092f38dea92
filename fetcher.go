package crdt

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// The fetcher asks the DAG service for what is missing, in the order that its
// scheduler says, and hands what comes to the merger, which says what is missing
// next. It owns the goroutines and the timer; all that is decided is decided by the
// scheduler.
type fetcher struct {
	ctx      context.Context
	blocks   *blockStore
	log      logging.StandardLogger
	classes  *sizeClasses
	unread   bell // rings while the merger must call resume: there may be queue rows of blocks that are not known
	requests sync.WaitGroup

	mu        sync.Mutex
	scheduler *scheduler  // and the budgets of classes
	timer     *time.Timer // for scheduler.tick
	timerAt   time.Time   // when it fires; zero: it is not set
	inVain    map[blockID]bool
}

func newFetcher(ctx context.Context, blocks *blockStore, opts *Options, classes *sizeClasses) *fetcher {
	return &fetcher{
		ctx:       ctx,
		blocks:    blocks,
		log:       opts.Logger,
		classes:   classes,
		unread:    newBell(),
		scheduler: newScheduler(opts.NumWorkers*fetchesPerWorker, opts.RebroadcastInterval),
	}
}

// tell tells the scheduler of something, and makes the requests that it decides on.
func (f *fetcher) tell(event func(s *scheduler, now time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	event(f.scheduler, now)
	if f.ctx.Err() != nil {
		return
	}
	for r := f.scheduler.next(now); r != nil; r = f.scheduler.next(now) {
		f.startLocked(r)
	}
	f.setTimerLocked(now)
	if invariants && len(f.scheduler.missing) < 256 { // it looks at all of them
		f.scheduler.check()
	}
}

func (f *fetcher) startLocked(r *request) {
	ctx, cancel := f.blocks.limit(f.ctx)
	r.cancel = cancel
	var s *session
	if r.block.attempts == 0 { // what was unavailable in its session is asked for outside it
		s = f.enterLocked(r.block.group)
	}
	l := r.block.link()
	f.requests.Go(func() { f.fetch(ctx, r, l, s) })
}

// setTimerLocked sees to it that tick is called in time. To set the timer anew for
// each request would cost more than to have it fire now and then for nothing.
func (f *fetcher) setTimerLocked(now time.Time) {
	due := f.scheduler.due()
	if due.IsZero() || !f.timerAt.IsZero() && !due.Before(f.timerAt) {
		return
	}
	f.timerAt = due
	if f.timer == nil {
		f.timer = time.AfterFunc(due.Sub(now), f.tick)
	} else {
		f.timer.Reset(due.Sub(now))
	}
}

func (f *fetcher) tick() {
	f.tell(func(s *scheduler, now time.Time) {
		f.timerAt = time.Time{}
		if s.tick(now) {
			f.unread.ring()
		}
	})
}

// fetch makes a request: it gets a block and hands it to the merger.
func (f *fetcher) fetch(ctx context.Context, r *request, l link, s *session) {
	raw, err := f.getRaw(ctx, l, r.group, s)
	if err == nil {
		err = f.bring(r, raw)
	}
	f.tell(func(s *scheduler, now time.Time) {
		r.cancel()
		f.noteFailure(r.block, err, s.ended(now, r, err != nil))
	})
}

// bring hands a block to the merger, if there is room for it.
func (f *fetcher) bring(r *request, raw []byte) error {
	need := f.classes.need(raw) // it reads all of raw: not under the lock
	f.mu.Lock()
	room, ok := f.scheduler.reserve(r, need)
	f.mu.Unlock()
	if !ok {
		return nil
	}
	a, err := f.arrivalOf(r.block.id, raw, room)
	if err == nil {
		f.deliver(r, a)
	}
	return err
}

// arrivalOf makes an arrival of a block for which there is room: to be merged, or to be
// refused. If neither is clear, it gives the room back.
func (f *fetcher) arrivalOf(id blockID, raw []byte, room reservation) (*arrival, error) {
	b, err := f.blocks.judge(f.ctx, id, raw)
	if err != nil && !isFinal(err) {
		f.release(room)
		return nil, err
	}
	return &arrival{block: b, err: err, room: room}, nil
}

// deliver blocks while the merger is behind, which in turn holds the slot.
func (f *fetcher) deliver(r *request, a *arrival) {
	f.mu.Lock()
	wanted := f.scheduler.answered(r)
	f.mu.Unlock()
	if !wanted { // removed meanwhile
		f.noteInVain(a)
		f.release(a.room)
		return
	}
	a.missing = r.block
	select {
	case a.room.class.queue <- a:
	case <-f.ctx.Done():
	}
}

// open makes an arrival of a block that came inline, or returns nil. Bytes that are
// not those of the block say nothing about it: it is fetched. So it is if there is
// no room for it now.
func (f *fetcher) open(id blockID, raw []byte) *arrival {
	need := f.classes.need(raw)
	f.mu.Lock()
	ok := need.tryTake()
	f.mu.Unlock()
	if !ok {
		return nil
	}
	a, _ := f.arrivalOf(id, raw, need)
	return a
}

// announce starts a group of announced blocks that have not been merged.
func (f *fetcher) announce(heads []announced) {
	f.tell(func(s *scheduler, now time.Time) {
		g := s.newGroup()
		g.heads = len(heads)
		for _, h := range heads {
			if h.arrival == nil || !f.arriveLocked(h) {
				s.announce(g, h.link)
			}
		}
		g.endIfDone()
		s.kick(now)
	})
}

// arriveLocked hands a block that came inline to the merger. If the merger is
// behind, or has it already, the block is announced like others.
func (f *fetcher) arriveLocked(h announced) bool {
	a := h.arrival
	a.inline, a.missing = true, &missingBlock{id: h.id, group: f.scheduler.newGroup()}
	if old := f.scheduler.missing[h.id]; old == nil || old.state != arrived {
		select {
		case a.room.class.queue <- a:
			f.scheduler.arrive(a.missing)
			return true
		default:
		}
	}
	f.scheduler.release(&a.room)
	return false
}

// merged takes notice of a group that was merged, and of what its blocks link to
// and is missing.
func (f *fetcher) merged(group []*arrival, missing map[blockID][]wanted) {
	f.tell(func(s *scheduler, now time.Time) {
		for _, a := range group {
			for _, w := range missing[a.missing.id] {
				s.want(now, a.missing.group, w)
			}
			s.remove(a.missing) // last: its group may end with it
		}
	})
}

// fail is for a block that could not be merged.
func (f *fetcher) fail(b *missingBlock, err error) {
	f.tell(func(s *scheduler, now time.Time) { f.noteFailure(b, err, s.fail(now, b)) })
}

func (f *fetcher) noteFailure(b *missingBlock, err error, givenUp bool) {
	switch {
	case givenUp:
		f.log.Infof("giving up on announced block %s after %d attempts: %s", b.id.Cid(), b.attempts, err)
	case err != nil:
		f.log.Debugf("block %s, attempt %d: %s", b.id.Cid(), b.attempts, err)
	}
}

// release gives room back.
func (f *fetcher) release(room reservation) {
	f.tell(func(s *scheduler, _ time.Time) { s.release(&room) })
}

// releaseAll gives back the room of a group, in one go: there may be hundreds of blocks.
func (f *fetcher) releaseAll(group []*arrival) {
	f.tell(func(s *scheduler, _ time.Time) {
		for _, a := range group {
			s.release(&a.room)
		}
	})
}

// kick tries again what failed: a peer has come.
func (f *fetcher) kick() { f.tell((*scheduler).kick) }

// retry brings a block again, with values that merging it needs.
func (f *fetcher) retry(b *missingBlock, values map[versionName]*loser) {
	f.tell(func(s *scheduler, _ time.Time) { s.retry(b, values) })
}

// hasRow notes that a block has a queue row.
func (f *fetcher) hasRow(b *missingBlock) {
	f.tell(func(*scheduler, time.Time) { b.queued = true })
}

// reserveValues reports whether values may be read for a block.
func (f *fetcher) reserveValues(b *missingBlock) (ok bool) {
	f.tell(func(s *scheduler, _ time.Time) { ok = s.reserveValues(b) })
	return ok
}

func (f *fetcher) remove(purged map[blockID]bool, unwanted []blockID) {
	f.tell(func(s *scheduler, _ time.Time) { s.removeAll(purged, unwanted) })
}

func (f *fetcher) isRemoved(b *missingBlock) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return b.state == removed
}

// asksInVain reports whether blocks seem to be nowhere.
func (f *fetcher) asksInVain() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scheduler.asksInVain(time.Now())
}

// ids returns the blocks that are known to be missing.
func (f *fetcher) ids() []blockID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.scheduler.missing))
}

// len returns how many blocks are known to be missing.
func (f *fetcher) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.scheduler.missing)
}

// stop waits for the requests in flight. The context has ended.
func (f *fetcher) stop() {
	f.tell(func(s *scheduler, _ time.Time) {
		for _, b := range s.missing {
			s.remove(b)
		}
		if f.timer != nil {
			f.timer.Stop()
		}
	})
	f.requests.Wait()
}
