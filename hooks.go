package crdt

import (
	"sync"

	ds "github.com/ipfs/go-datastore"
)

// An event is what the hooks are told about one key after a commit: first that
// the old value is gone, then that there is a new one.
type event struct {
	key          string
	value        []byte
	deleted, put bool
}

// hookQueue runs the hooks in commit order, one at a time, without a lock.
//
// Whoever has committed runs what is in the queue, so that a Put has run its
// hook when it returns. If another goroutine is at it already, or the caller
// is a hook itself, the events are left to that one. A runner that has done
// its own share hands the rest to a goroutine, so that nobody is held up by
// the writes of others.
type hookQueue struct {
	onPut    func(ds.Key, []byte)
	onDelete func(ds.Key)

	mu      sync.Mutex
	room    sync.Cond // signalled when the queue gets shorter
	events  []event
	running bool
	workers sync.WaitGroup
}

// maxWaitingEvents is when merges wait for slow hooks to catch up. Local writes
// never wait: the hook itself may be writing.
const maxWaitingEvents = 64 << 10

func newHookQueue(opts *Options) *hookQueue {
	q := &hookQueue{onPut: opts.PutHook, onDelete: opts.DeleteHook}
	q.room.L = &q.mu
	return q
}

// eventsOf returns what there is to tell about the keys of a commit. It keeps
// nothing of theirs.
func (q *hookQueue) eventsOf(changed []*keyChange) (events []event) {
	if q.onPut == nil && q.onDelete == nil {
		return nil
	}
	for _, k := range changed {
		if e, ok := k.event(); ok {
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
}

// run runs the hooks for what has been pushed so far.
func (q *hookQueue) run() {
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
		e := q.events[0]
		q.events[0] = event{}
		q.events = q.events[1:]
		q.room.Broadcast()
		q.call(e)
	}
}

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

// waitForRoom blocks while too many events wait for their hooks.
func (q *hookQueue) waitForRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.events) > maxWaitingEvents {
		q.room.Wait()
	}
}

// finish runs what is left and waits until no hook is running.
func (q *hookQueue) finish() {
	q.run()
	q.workers.Wait()
}
