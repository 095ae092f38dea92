package crdt

import (
	"context"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// An event is what the hooks are told about one key after a commit: first that
// the old value is gone, then that there is a new one.
type event struct {
	key          string
	value        []byte
	deleted, put bool
}

func (e *event) size() int { return len(e.key) + len(e.value) + eventSize }

// hookQueue runs the hooks in commit order, one at a time, without a lock.
//
// Whoever has committed runs what is in the queue, so that a Put has run its
// hook when it returns. If another goroutine is at it already, or the caller
// is a hook itself, the events are left to that one. A runner that has done
// its own share hands the rest to a goroutine, so that nobody is held up by
// the writes of others.
//
// When more waits than the limits say, the merger waits before its next commit,
// and all others after theirs. To wait before it would not do: the commit that is
// needed to end the wait may be one that a hook makes.
type hookQueue struct {
	onPut     func(ds.Key, []byte)
	onDelete  func(ds.Key)
	maxEvents int
	maxBytes  int

	mu      sync.Mutex
	events  []event
	size    int           // of events, in bytes
	taken   uint64        // how many events have been taken off
	notFull chan struct{} // closed when the queue is not full any more; nil: nobody waits
	running bool
	workers sync.WaitGroup
}

// Limits of what waits for the hooks. The last commit of each who writes comes on
// top. Close has closeTimeout to run what waits: hooks of 2 ms each can keep up
// with that.
const (
	maxWaitingEvents = 4 << 10
	maxWaitingBytes  = 32 << 20
	eventSize        = 64 // of an event without its key and value

	// hookPatience is how long a write waits while no hook returns: the one that
	// runs may wait for that write itself, on another goroutine. So such a hook
	// is slow when the queue is full, but it gets its write. All writes wait so
	// long, not just one for each hook: hooks may be this slow by themselves.
	hookPatience = time.Second
)

func newHookQueue(opts *Options) *hookQueue {
	return &hookQueue{onPut: opts.PutHook, onDelete: opts.DeleteHook, maxEvents: maxWaitingEvents, maxBytes: maxWaitingBytes}
}

// eventsOf returns what there is to tell about the keys of a commit. It keeps
// nothing of theirs.
func (q *hookQueue) eventsOf(changed []*keyChange) (events []event) {
	if q.onPut == nil && q.onDelete == nil {
		return nil
	}
	for _, k := range changed {
		if e := k.event(); e.deleted && q.onDelete != nil || e.put && q.onPut != nil {
			e.value = slices.Clone(e.value)
			events = append(events, e)
		}
	}
	return events
}

// push adds the events of a commit. The caller holds the commit's turn, which
// keeps the order.
func (q *hookQueue) push(events []event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.events = append(q.events, events...)
	for i := range events {
		q.size += events[i].size()
	}
}

// runHooks runs the hooks for what has been pushed so far.
func (q *hookQueue) runHooks() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running || len(q.events) == 0 {
		return
	}
	q.drainLocked(len(q.events))
	if len(q.events) > 0 {
		q.running = true
		q.workers.Go(q.drainAll)
	}
}

func (q *hookQueue) drainAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.events) > 0 {
		q.drainLocked(len(q.events))
	}
}

// drainLocked runs the hooks for n events. The lock is not held meanwhile.
func (q *hookQueue) drainLocked(n int) {
	q.running = true
	defer func() { q.running = false }() // a hook may panic
	for range n {
		q.call(q.takeLocked())
	}
}

func (q *hookQueue) takeLocked() event {
	e := q.events[0]
	q.events[0] = event{}
	q.events = q.events[1:]
	q.size -= e.size()
	q.taken++
	if q.notFull != nil && !q.fullLocked() {
		close(q.notFull)
		q.notFull = nil
	}
	return e
}

func (q *hookQueue) fullLocked() bool { return len(q.events) > q.maxEvents || q.size > q.maxBytes }

// call runs the hooks for one event with the lock released.
func (q *hookQueue) call(e event) {
	q.mu.Unlock()
	defer q.mu.Lock()
	key := ds.RawKey(e.key)
	if e.deleted && q.onDelete != nil {
		q.onDelete(key)
	}
	if e.put && q.onPut != nil {
		q.onPut(key, e.value)
	}
}

// full returns what is closed when the queue is full no longer, or nil if it is not
// full, and how many events have been taken off.
func (q *hookQueue) full() (notFull <-chan struct{}, taken uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.fullLocked() {
		return nil, q.taken
	}
	if q.notFull == nil {
		q.notFull = make(chan struct{})
	}
	return q.notFull, q.taken
}

// waitWhileFull blocks while the queue is full. It is for the merger.
func (q *hookQueue) waitWhileFull() {
	q.runHooks() // a hook that panicked may have left events to nobody
	if notFull, _ := q.full(); notFull != nil {
		<-notFull
	}
}

// await lets another goroutine run the hooks of a write that it has committed, if
// that does not take long. They may wait for this one.
func (q *hookQueue) await(ctx context.Context, told <-chan struct{}) {
	if q.onPut == nil && q.onDelete == nil {
		return
	}
	select {
	case <-told: // as a rule: no timer for a leader
		return
	default:
	}
	patience := time.NewTimer(hookPatience)
	defer patience.Stop()
	select {
	case <-told:
	case <-ctx.Done():
	case <-patience.C:
	}
}

// yield lets the hooks catch up after a commit, unless it was made by a hook.
func (q *hookQueue) yield(ctx context.Context) {
	notFull, taken := q.full()
	if notFull == nil || inHook() {
		return
	}
	patience := time.NewTicker(hookPatience)
	defer patience.Stop()
	for before := taken; notFull != nil; before = taken {
		select {
		case <-notFull:
			return
		case <-ctx.Done():
			return
		case <-patience.C:
			if notFull, taken = q.full(); taken == before {
				return
			}
		}
	}
}

// inHook reports whether the caller has been called by a hook, of whatever replica.
//
// Hooks get no context that could tell. But while one runs, call is on the stack of
// its goroutine. To look there takes some microseconds, and is only done when the
// queue is full. The id of the goroutine would tell as much, but there is no way to
// get it other than out of a text for people.
func inHook() bool {
	var pcs [64]uintptr
	for skip := 0; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for frame, more := frames.Next(); ; frame, more = frames.Next() {
			if frame.Function == hookCaller {
				return true
			}
			if !more {
				break
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

// hookCaller is the name of the function that calls the hooks.
var hookCaller = runtime.FuncForPC(reflect.ValueOf((*hookQueue).call).Pointer()).Name()

// runRest runs what is left and waits until no hook is running.
func (q *hookQueue) runRest() {
	q.runHooks()
	q.workers.Wait()
}
