package crash

import (
	"fmt"
	"path"
	"strings"
	"sync"
	"testing"
)

// A ledger knows what was begun and what was acknowledged on both replicas, and
// so which value each key may have. It is a journal of the peer that is never
// killed, and told of what the child does.
//
// A write is superseded by one of the same replica that began after it was
// acknowledged: the later one wins everywhere. Between writes of different
// replicas it does not decide. So keys that both write to must not be deleted:
// a deletion removes only what its replica has seen.
type ledger struct {
	mu      sync.Mutex
	clock   int // counts events
	keys    map[string]*history
	running map[uint64]*entry
	members map[string]int    // how many keys a group has
	author  map[string]origin // of a group
	acked   int

	// There are checkpoints. They are taken in several commits, and for them the removal of a
	// version is written that a later one has replaced, which may be the first to come: what
	// the peer has written may be missing, or there in part, while the child catches up. And
	// a key to which both write may have none of its last values, but an older one, the removal of
	// which is in another block.
	compacts bool
}

type origin string

const (
	byChild origin = "child"
	byPeer  origin = "peer"
	settled origin = "" // what was found when nothing else could be
)

// An entry is one operation.
type entry struct {
	from         origin
	writes       map[string]string
	begun, ended int // ended: 0 until it is acknowledged
}

// A history has what a key may be.
type history struct {
	versions []*version
}

type version struct {
	*entry
	value        string
	supersededBy map[origin]bool
}

func newLedger() *ledger {
	return &ledger{keys: make(map[string]*history), running: make(map[uint64]*entry), members: make(map[string]int), author: make(map[string]origin)}
}

func (l *ledger) tick() int {
	l.clock++
	return l.clock
}

// settle notes pairs that are there from the beginning.
func (l *ledger) settle(pairs map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range pairs {
		l.historyOf(k).settle(v, l.tick())
	}
}

// begin notes an operation that is about to be called. A key that was never
// written is settled as absent.
func (l *ledger) begin(from origin, id uint64, op operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[id] != nil {
		panic(fmt.Sprintf("operation %x began twice", id))
	}
	e := &entry{from: from, writes: op.Writes, begun: l.tick()}
	l.running[id] = e
	for k, v := range op.Writes {
		l.historyOf(k).add(e, v)
		if op.Batch {
			l.members[path.Dir(k)], l.author[path.Dir(k)] = len(op.Writes), from
		}
	}
}

func (l *ledger) historyOf(key string) *history {
	h := l.keys[key]
	if h == nil {
		h = &history{}
		h.settle("", -1) // before all events
		l.keys[key] = h
	}
	return h
}

func (h *history) add(e *entry, value string) {
	h.versions = append(h.versions, &version{entry: e, value: value, supersededBy: make(map[origin]bool)})
}

func (h *history) settle(value string, now int) {
	h.versions = nil
	h.add(&entry{from: settled, begun: now, ended: now}, value)
}

// end notes that an operation was acknowledged.
func (l *ledger) end(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.running[id]
	delete(l.running, id)
	e.ended = l.tick()
	l.acked++
	for k := range e.writes {
		l.keys[k].supersede(e)
	}
}

func (h *history) supersede(by *entry) {
	for _, v := range h.versions {
		if v.ended != 0 && v.ended < by.begun && (v.from == by.from || v.from == settled) {
			v.supersededBy[by.from] = true
		}
	}
}

// childDied forgets what the child had begun: it will never be acknowledged.
func (l *ledger) childDied() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range l.running {
		if e.from == byChild {
			delete(l.running, id)
		}
	}
}

func (l *ledger) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// An expectation says what the pairs of a replica must be like.
type expectation struct {
	may     func(*version) bool // be there
	older   func(*history) bool // an older value is all right, and that there is none, whatever was written
	settles func(*history) bool // what is found is what there is
	whole   func(origin) bool   // whose batches must be whole
}

// restarted checks the pairs of the child when it has come back and has written
// nothing yet. What is found of keys that it alone writes to is settled then.
func (l *ledger) restarted(pairs map[string]string) error {
	childs := func(h *history) bool {
		for _, v := range h.versions {
			if v.from == byPeer {
				return false
			}
		}
		return true
	}
	return l.check(pairs, expectation{
		may:     func(v *version) bool { return !v.supersededBy[byChild] },
		older:   func(h *history) bool { return l.compacts && !childs(h) },
		settles: childs,
		whole:   func(from origin) bool { return from == byChild || !l.compacts },
	})
}

// converged checks the pairs of both replicas when they agree and nobody writes.
func (l *ledger) converged(pairs map[string]string) error {
	return l.check(pairs, expectation{
		may:     func(v *version) bool { return len(v.supersededBy) == 0 },
		older:   func(*history) bool { return false },
		settles: func(*history) bool { return true },
		whole:   func(origin) bool { return true },
	})
}

func (l *ledger) check(pairs map[string]string, want expectation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range pairs {
		if l.keys[k] == nil {
			return fmt.Errorf("%s is %q, and nobody wrote it", k, pairs[k])
		}
	}
	for k, h := range l.keys {
		older := want.older(h) && (pairs[k] == "" || h.allows(pairs[k], func(*version) bool { return true }))
		if !older && !h.allows(pairs[k], want.may) {
			return fmt.Errorf("%s is %q; known is\n%s", k, pairs[k], h)
		}
		if want.settles(h) {
			h.settle(pairs[k], l.tick())
		}
	}
	return l.checkGroups(pairs, want.whole)
}

func (h *history) allows(value string, may func(*version) bool) bool {
	for _, v := range h.versions {
		if v.value == value && may(v) {
			return true
		}
	}
	return false
}

func (h *history) String() string {
	var b strings.Builder
	for _, v := range h.versions {
		fmt.Fprintf(&b, "\t%q by %q, begun at %d, ended at %d, superseded by %v\n", v.value, v.from, v.begun, v.ended, v.supersededBy)
	}
	return b.String()
}

// checkGroups checks that every batch took effect as a whole, or not at all, of those
// who wrote whole ones only.
func (l *ledger) checkGroups(pairs map[string]string, whole func(origin) bool) error {
	found, values := make(map[string]int), make(map[string]string)
	for k, v := range pairs {
		parent := path.Dir(k)
		if l.members[parent] == 0 || !whole(l.author[parent]) {
			continue
		}
		if found[parent] > 0 && values[parent] != v {
			return fmt.Errorf("half a batch: below %s there are %q and %q", parent, values[parent], v)
		}
		found[parent]++
		values[parent] = v
	}
	for parent, n := range found {
		if n != l.members[parent] {
			return fmt.Errorf("half a batch: below %s there are %d of %d keys", parent, n, l.members[parent])
		}
	}
	return nil
}

// put is a Put that was acknowledged.
func (l *ledger) put(from origin, id uint64, key, value string) {
	l.begin(from, id, operation{Writes: map[string]string{key: value}})
	l.end(id)
}

func TestLedger(t *testing.T) {
	l := newLedger()
	l.put(byChild, 1, "/k", "1")
	l.put(byChild, 2, "/k", "2")
	l.begin(byChild, 3, operation{Writes: map[string]string{"/k": "3"}})
	l.put(byChild, 4, "/both", "4")
	l.put(byPeer, 5, "/both", "5")
	l.put(byPeer, 6, "/both", "6")
	l.childDied()
	good := map[string]string{"/k": "3", "/both": "5"}
	for _, bad := range []map[string]string{
		{"/both": "5"}, {"/k": "1", "/both": "5"}, {"/k": "3"}, {"/k": "3", "/both": "5", "/other": "7"},
	} {
		if l.restarted(bad) == nil {
			t.Errorf("%v was taken for what the child may have", bad)
		}
	}
	if err := l.restarted(good); err != nil {
		t.Error(err)
	}
	if l.restarted(map[string]string{"/k": "2", "/both": "5"}) == nil {
		t.Error("a value was taken back that had been seen")
	}
	if l.converged(good) == nil {
		t.Error("the peer's last write was allowed to be lost")
	}
	if err := l.converged(map[string]string{"/k": "3", "/both": "4"}); err != nil {
		t.Error(err)
	}
}

func TestLedgerFindsHalfBatches(t *testing.T) {
	l := newLedger()
	for id := range uint64(2) {
		l.begin(byChild, id, group("/g", 2, fmt.Sprint(id)))
	}
	for _, bad := range []map[string]string{{"/g/0": "0"}, {"/g/0": "0", "/g/1": "1"}} {
		if l.restarted(bad) == nil {
			t.Errorf("%v was taken for a whole batch", bad)
		}
	}
}
