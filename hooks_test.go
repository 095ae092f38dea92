package crdt

import (
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// A toldHooks remembers what the hooks were told.
type toldHooks struct {
	mu     sync.Mutex
	events []string
}

func (h *toldHooks) set(o *Options) {
	o.PutHook = func(k ds.Key, v []byte) { h.tell("+" + k.String() + "=" + string(v)) }
	o.DeleteHook = func(k ds.Key) { h.tell("-" + k.String()) }
}

func (h *toldHooks) tell(event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event)
}

func (h *toldHooks) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return ""
	}
	return h.events[len(h.events)-1]
}

// A write that only seemed to fail is told of later, when its caller may have reused the
// slice.
func TestHookIsToldTheValueThatTheStoreHas(t *testing.T) {
	faulty := newFaultyStore()
	var told toldHooks
	r := newTestNet().newReplicaOn(t, faulty, silent, told.set)
	value := []byte("hello")
	faulty.failIn(0, 1, true)
	if err := r.Put(ctx, ds.NewKey("/k"), value); err == nil {
		t.Fatal("the Put did not fail")
	}
	copy(value, "XXXXX")
	waitFor(t, "the hook", func() bool { return told.last() != "" })
	if got := told.last(); got != "+/k=hello" || r.get("/k") != "hello" {
		t.Errorf("the hooks were told %s, the store has %s", got, r.get("/k"))
	}
}

// awaitNil fails unless a call returns nil before long.
func awaitNil(t *testing.T, what string, call func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(time.Minute): // some machines are slow
		t.Fatalf("%s has not returned", what)
	}
}
