package crdt

import (
	"container/heap"
	"container/list"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// Limits of the walker. What does not fit stays in the store, as queue rows,
// or is announced again by those who have it.
const (
	fetchesPerWorker = 32       // requests in flight for each of Options.NumWorkers
	maxSlow          = 512      // further requests that have outlived patience
	maxJobs          = 64 << 10 // blocks known to be missing
	maxAnnounced     = 4096     // of these, announced and not seen yet

	patience   = 300 * time.Millisecond // how long a request keeps its slot
	maxSlowAge = 10 * time.Second       // older slow requests may be cut off
	maxSpill   = time.Minute            // how long queue rows that are not in jobs wait at most

	minBackoff  = 100 * time.Millisecond
	maxAttempts = 8 // for a block that was announced and never seen
)

// The walker fetches what is missing: announced heads, and the blocks below
// them, newest first. What arrives goes to the merger, which tells the walker
// what is missing next.
//
// Each announcement is a walk of its own, and the walks take turns, so that
// none can hold up the others. A request that outlives the walker's patience
// gives its slot to the next and goes on beside it; one that fails is tried
// again later.
type walker struct {
	ctx        context.Context
	blocks     *blockStore
	log        logging.StandardLogger
	lanes      *lanes
	again      chan struct{} // holds a token while the queue rows must be read
	slots      int
	maxBackoff time.Duration
	workers    sync.WaitGroup

	mu        sync.Mutex
	jobs      map[blockID]*job
	rotation  list.List   // of *walk: those with waiting jobs, next first
	urgent    list.List   // of *job: waiting, with room or values; they go before all others
	valued    int         // jobs that have values, or have them read
	announced list.List   // of *job: announced blocks, oldest first
	slow      list.List   // of *job: requests without a slot, oldest first
	failing   list.List   // of *job: parked, with a queue row, longest first
	running   int         // requests with a slot
	spill     *time.Timer // set while the store has queue rows that are not in jobs
	kicked    time.Time
}

func newWalker(ctx context.Context, blocks *blockStore, opts *Options, lanes *lanes) *walker {
	return &walker{
		ctx:        ctx,
		blocks:     blocks,
		log:        opts.Logger,
		lanes:      lanes,
		again:      make(chan struct{}, 1),
		slots:      opts.NumWorkers * fetchesPerWorker,
		maxBackoff: opts.RebroadcastInterval,
		jobs:       make(map[blockID]*job),
	}
}

// announce starts a walk from announced blocks that have not been merged.
func (w *walker) announce(heads []announced) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wk := &walk{}
	for _, h := range heads {
		if w.arriveLocked(wk, h) {
			continue
		}
		if j := w.jobs[h.id]; j != nil {
			j.linked(h.v0)
			continue
		}
		j := w.addLocked(wk, wanted{id: h.id, height: anyHeight, v0: h.v0}, false)
		j.element = w.announced.PushBack(j)
		if w.announced.Len() > maxAnnounced {
			w.dropLocked(w.announced.Front().Value.(*job))
		}
	}
	w.endIfDone(wk)
	w.kickLocked()
	w.startLocked()
}

// arriveLocked hands a block that came inline to the merger, in the place of a
// request for it. If the merger is behind, the block has to be fetched.
func (w *walker) arriveLocked(wk *walk, h announced) bool {
	old := w.jobs[h.id]
	if h.room.lane == nil {
		return false
	}
	if old != nil && old.state == arrived {
		w.freeLocked(h.room)
		return false
	}
	j := &job{id: h.id, walk: wk, state: arrived, queued: old != nil && old.queued}
	select {
	case h.room.lane.queue <- &arrival{job: j, block: h.block, err: h.err, inline: true, room: h.room}:
	default:
		w.freeLocked(h.room)
		return false
	}
	if old != nil {
		w.dropLocked(old)
	}
	w.jobs[h.id] = j
	wk.jobs++
	return true
}

// want adds the missing children of a block that was merged.
func (w *walker) want(wk *walk, children []wanted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range children {
		w.wantLocked(wk, c)
	}
	w.startLocked()
}

func (w *walker) wantLocked(wk *walk, c wanted) {
	if j := w.jobs[c.id]; j != nil {
		j.linked(c.v0)
		j.queued = true
		j.again = j.state == arrived
		w.unlistLocked(j)
		return
	}
	if len(w.jobs) >= maxJobs {
		w.lookLaterLocked()
		if !w.displaceLocked(wk) {
			return
		}
	}
	w.addLocked(wk, c, true)
}

// displaceLocked makes room for a job of a walk: in the place of one that failed,
// since the newcomer may be had, or of one that waits in a much longer walk, as no
// walk may keep others out. These stay in the store.
func (w *walker) displaceLocked(wk *walk) bool {
	if w.failing.Len() > 0 {
		w.dropLocked(w.failing.Front().Value.(*job))
		return true
	}
	back := w.rotation.Back()
	if back == nil {
		return false
	}
	long := back.Value.(*walk)
	last := len(long.waiting) - 1
	if last <= 2*len(wk.waiting) || long.waiting[last].state != waiting || !long.waiting[last].queued {
		return false
	}
	j := long.waiting[last] // to take the last from a heap leaves a heap
	long.waiting[last] = nil
	long.waiting = long.waiting[:last]
	w.dropLocked(j)
	return true
}

func (w *walker) addLocked(wk *walk, c wanted, queued bool) *job {
	j := &job{id: c.id, walk: wk, height: c.height, v0: c.v0, queued: queued}
	w.jobs[c.id] = j
	wk.jobs++
	w.enqueueLocked(j)
	return j
}

// enqueueLocked makes a job wait for a slot. A walk that had none waiting goes
// to the front: news is fetched before history.
func (w *walker) enqueueLocked(j *job) {
	j.state = waiting
	heap.Push(&j.walk.waiting, j)
	if j.walk.element == nil {
		j.walk.element = w.rotation.PushFront(j.walk)
	}
}

// startLocked fills the free slots.
func (w *walker) startLocked() {
	for w.running < w.slots && w.urgent.Len()+w.rotation.Len() > 0 && w.ctx.Err() == nil {
		j := w.nextLocked()
		if j.state != waiting {
			continue // dropped meanwhile
		}
		j.state = running
		w.running++
		w.workers.Go(func() { w.fetch(j) })
	}
}

// nextLocked takes a job that keeps room or memory from others, or else the
// newest of the walk whose turn it is.
func (w *walker) nextLocked() *job {
	if e := w.urgent.Front(); e != nil {
		return w.urgent.Remove(e).(*job)
	}
	wk := w.rotation.Front().Value.(*walk)
	j := heap.Pop(&wk.waiting).(*job)
	if wk.waiting.Len() > 0 {
		w.rotation.MoveToBack(wk.element)
	} else {
		w.rotation.Remove(wk.element)
		wk.element = nil
	}
	return j
}

// fetch gets one block and hands it to the merger.
func (w *walker) fetch(j *job) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	l, s := w.prepare(j, cancel)
	impatient := time.AfterFunc(patience, func() { w.yieldSlot(j) })
	raw, err := w.get(ctx, l, j.walk, s)
	impatient.Stop()
	if err == nil {
		err = w.bring(ctx, j, raw)
	}
	w.done(j, err)
}

// bring hands a block to the merger, if there is room for it.
func (w *walker) bring(ctx context.Context, j *job, raw []byte) error {
	r, ok := w.claim(j, w.lanes.roomFor(raw))
	if !ok {
		return nil
	}
	b, err := w.blocks.judge(ctx, j.id, raw)
	if err != nil && !isFinal(err) {
		w.free(r)
		return err
	}
	w.deliver(&arrival{job: j, block: b, err: err, room: r})
	return nil
}

// urgeLocked makes a job wait for a slot before all others.
func (w *walker) urgeLocked(j *job) {
	j.state = waiting
	w.urgent.PushBack(j)
}

// prepare says how to ask for a block, and in which session. One that could not be
// had in its session is asked for outside it.
func (w *walker) prepare(j *job, cancel context.CancelFunc) (link, *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j.cancel = cancel
	if j.state != running {
		cancel() // dropped meanwhile, and the walk may have ended
		return j.link(), nil
	}
	if j.attempts > 0 {
		return j.link(), nil
	}
	return j.link(), w.enterLocked(j.walk)
}

// deliver blocks while the merger is behind, which in turn holds the slot.
func (w *walker) deliver(a *arrival) {
	w.mu.Lock()
	given := a.job.state == running
	if given {
		a.job.state = arrived
		w.unlistLocked(a.job)
	}
	w.mu.Unlock()
	if !given { // dropped meanwhile
		w.free(a.room)
		return
	}
	select {
	case a.room.lane.queue <- a:
	case <-w.ctx.Done():
	}
}

// yieldSlot lets the next request start while j's goes on. There may be too many
// of these already.
func (w *walker) yieldSlot(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.state != running || j.slow != nil {
		return
	}
	if w.slow.Len() >= maxSlow && !w.cutOffLocked() {
		time.AfterFunc(patience, func() { w.yieldSlot(j) })
		return
	}
	w.vacateLocked(j)
	j.slow, j.slowed = w.slow.PushBack(j), time.Now()
	w.running--
	w.startLocked()
}

// cutOffLocked ends the oldest of the slow requests from which least is to be
// hoped: where the walk has come to nothing yet, or which took very long. On
// a slow link the others are left alone: cut off and begun again and again,
// none would ever come.
func (w *walker) cutOffLocked() bool {
	for e := w.slow.Front(); e != nil; e = e.Next() {
		if j := e.Value.(*job); !j.walk.fruitful || time.Since(j.slowed) > maxSlowAge {
			w.slow.Remove(e) // now: others may yield before the request ends
			j.cancel()
			return true
		}
	}
	return false
}

// done frees what a request held, and parks its job if it failed.
func (w *walker) done(j *job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.slow != nil {
		w.slow.Remove(j.slow)
		j.slow = nil
	} else {
		w.running--
	}
	if err != nil {
		w.failLocked(j, err)
	} else {
		j.walk.fruitful = true
	}
	w.startLocked()
}

// fail parks a job that could not be merged.
func (w *walker) fail(j *job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failLocked(j, err)
}

// failLocked parks a job until it is worth another try.
func (w *walker) failLocked(j *job, err error) {
	if j.state == dropped || w.ctx.Err() != nil {
		return
	}
	w.vacateLocked(j)
	w.forgetValuesLocked(j)
	j.attempts++
	if !j.queued && j.attempts >= maxAttempts {
		w.log.Infof("giving up on announced block %s after %d attempts: %s", j.id.Cid(), j.attempts, err)
		w.dropLocked(j)
		return
	}
	w.log.Debugf("block %s, attempt %d: %s", j.id.Cid(), j.attempts, err)
	j.state = parked
	j.retry = time.AfterFunc(w.backoff(j.attempts), func() { w.unpark(j) })
	if j.queued {
		j.failing = w.failing.PushBack(j)
	}
}

func (w *walker) backoff(attempts int) time.Duration {
	d := min(minBackoff<<min(attempts, 16), w.maxBackoff)
	return d/2 + rand.N(d/2+1)
}

func (w *walker) unpark(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unparkLocked(j)
	w.startLocked()
}

func (w *walker) unparkLocked(j *job) {
	if j.state == parked {
		w.recoverLocked(j)
		j.retry.Stop()
		w.enqueueLocked(j)
	}
}

// kick tries all parked jobs again: a peer has come, or has been heard.
func (w *walker) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kickLocked()
	w.startLocked()
}

// kickLocked does so at most once a second, since any peer can make it happen.
func (w *walker) kickLocked() {
	if time.Since(w.kicked) < time.Second {
		return
	}
	w.kicked = time.Now()
	for _, j := range w.jobs {
		w.unparkLocked(j)
	}
}

// retry fetches a block again, which is here, once the values have been read
// that merging it needs.
func (w *walker) retry(j *job, values map[versionName]*loser) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.state == dropped {
		return
	}
	j.values = values
	w.urgeLocked(j)
	w.startLocked()
}

// hasRow notes that a job has a queue row.
func (w *walker) hasRow(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j.queued = true
}

// reserveValues lets values be read for a job, unless many have some already.
func (w *walker) reserveValues(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !j.valued && w.valued < maxValued {
		j.valued = true
		w.valued++
	}
	return j.valued
}

// forgetValuesLocked is for a job that is not with the merger, which reads them.
func (w *walker) forgetValuesLocked(j *job) {
	w.unreserveLocked(j)
	j.values = nil
}

func (w *walker) unreserveLocked(j *job) {
	if j.valued {
		j.valued = false
		w.valued--
	}
}

// merged forgets a job that is done, or does it again if it has to be.
func (w *walker) merged(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !j.again || j.state == dropped {
		w.dropLocked(j)
		return
	}
	j.again = false
	w.forgetValuesLocked(j)
	w.enqueueLocked(j)
	w.startLocked()
}

// forget drops the jobs of blocks that are being purged, and of blocks that are
// not wanted any more, unless these have arrived.
func (w *walker) forget(purged map[blockID]bool, unwanted []blockID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, j := range w.jobs {
		if purged[id] {
			w.dropLocked(j)
		}
	}
	for _, id := range unwanted {
		if j := w.jobs[id]; j != nil && j.state != arrived {
			w.dropLocked(j)
		}
	}
	w.startLocked()
}

func (w *walker) isDropped(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return j.state == dropped
}

// dropLocked forgets a job in whatever state it is.
func (w *walker) dropLocked(j *job) {
	if j.state == dropped {
		return
	}
	switch j.state {
	case running:
		if j.cancel != nil {
			j.cancel()
		}
	case parked:
		j.retry.Stop()
	case crowded:
		j.room.lane.leaveLocked(j)
		j.room = room{}
	}
	w.vacateLocked(j)
	w.unreserveLocked(j)
	j.state = dropped
	w.unlistLocked(j)
	delete(w.jobs, j.id)
	j.walk.jobs--
	w.endIfDone(j.walk)
}

func (w *walker) unlistLocked(j *job) {
	if j.element != nil {
		w.announced.Remove(j.element)
		j.element = nil
	}
	w.recoverLocked(j)
}

// recoverLocked takes a job off the list of those that failed. If it was
// announced, it stays among those.
func (w *walker) recoverLocked(j *job) {
	if j.failing != nil {
		w.failing.Remove(j.failing)
		j.failing = nil
	}
}

func (w *walker) endIfDone(wk *walk) {
	if wk.jobs > 0 {
		return
	}
	if wk.session != nil {
		wk.session.end()
	}
	wk.waiting = nil // jobs that were dropped before their turn
	if wk.element != nil {
		w.rotation.Remove(wk.element)
		wk.element = nil
	}
}

// len returns how many blocks are known to be missing.
func (w *walker) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.jobs)
}

// stop waits for the requests in flight. The context has ended.
func (w *walker) stop() {
	w.mu.Lock()
	if w.spill != nil {
		w.spill.Stop()
	}
	for _, j := range w.jobs {
		w.dropLocked(j)
	}
	w.mu.Unlock()
	w.workers.Wait()
}
