package crdt

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// Writes of all kinds wait for hooks that are slower than they are. While no hook returns,
// each goroutine still makes one a second.
func TestSlowHooksHoldWritesBack(t *testing.T) {
	for name, limit := range map[string][2]int{"number": {8, 1 << 20}, "bytes": {1000, 8 * (1000 + eventSize)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { slowHooksHoldWritesBack(t, limit, time.Millisecond, 8+2*slowHookWriters) })
			synctest.Test(t, func(t *testing.T) { slowHooksHoldWritesBack(t, limit, time.Hour, 8+7*slowHookWriters) })
		})
	}
}

const slowHookWriters = 4

func slowHooksHoldWritesBack(t *testing.T, limit [2]int, slow time.Duration, most int) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r := newTestNet().newReplica(t, silent, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) { _ = pause(ctx, slow) }
	})
	r.limitHooks(limit[0], limit[1])
	var wg sync.WaitGroup
	for w := range slowHookWriters {
		wg.Go(func() {
			for i := 0; i < 100 && ctx.Err() == nil; i++ {
				r.writeSomehow(ctx, w, fmt.Sprint("/", w, "/", i), make([]byte, 1000))
				if n := r.waitingHooks(); n > most {
					t.Errorf("%d events wait", n)
				}
			}
		})
	}
	wg.Wait()
}

// writeSomehow puts a pair in one of the ways there are.
func (r *replica) writeSomehow(ctx context.Context, way int, key string, value []byte) {
	switch way {
	case 0:
		d, err := r.Set().Add(ctx, key, value)
		r.must(err)
		_, _ = r.Publish(ctx, d)
	case 1:
		b, err := r.Batch(ctx)
		r.must(err)
		r.must(b.Put(ctx, ds.NewKey(key), value))
		_ = b.Commit(ctx)
	default:
		_ = r.Put(ctx, ds.NewKey(key), value)
	}
}

// deepDown calls f with a stack that deep.
func deepDown(depth int, f func()) {
	if depth > 0 {
		deepDown(depth-1, f)
		return
	}
	f()
}

// A hook that writes, however it does, never waits for hooks.
func TestHookThatWritesDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *replica
		r = newTestNet().newReplica(t, func(o *Options) {
			o.PutHook = func(k ds.Key, v []byte) {
				if strings.HasPrefix(k.String(), "/k/") {
					for way := range 3 {
						deepDown(100*way, func() { r.writeSomehow(ctx, way, fmt.Sprint("/copy/", way, k), v) })
					}
					r.must(r.Delete(ctx, k))
				}
			}
		})
		r.limitHooks(1, 1<<20)
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { r.put(fmt.Sprint("/k/", i), "v") })
		}
		wg.Wait()
		waitFor(t, "the hooks", func() bool { return len(r.pairs()) == 60 && r.waitingHooks() == 0 })
		if took := time.Since(begun); took >= hookPatience {
			t.Errorf("it took %s", took)
		}
	})
}

// A hook may wait for what other goroutines write, though it was committed together with
// what the hook is about, or the queue is full.
func TestHookThatWaitsForOtherWritersGetsTheirWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *replica
		var first sync.Once
		returned := make(chan struct{}, 8)
		r = newTestNet().newReplica(t, func(o *Options) {
			o.PutHook = func(ds.Key, []byte) {
				first.Do(func() {
					for range 7 {
						<-returned
					}
					var wg sync.WaitGroup
					for i := range 4 {
						wg.Go(func() { r.put(fmt.Sprint("/index/", i), "v") })
					}
					wg.Wait()
				})
			}
		})
		r.limitHooks(2, 1<<20)
		r.must(r.committer.acquire(ctx))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { r.put(fmt.Sprint("/k/", i), "v"); returned <- struct{}{} })
		}
		r.awaitWriters(8)
		begun := time.Now()
		r.committer.release()
		wg.Wait()
		if took := time.Since(begun); took > 5*hookPatience || len(r.pairs()) != 12 {
			t.Errorf("after %s: %v", took, r.pairs())
		}
	})
}

// blockedHooks returns a replica with a hook that waits until unblock is called, behind
// which the queue is full, and a Put that waits for room. Its result is sent.
func blockedHooks(t *testing.T, ctx context.Context) (r *replica, put chan error, unblock func()) {
	blocked := make(chan struct{})
	var told atomic.Int64
	r = newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(ds.Key, []byte) { told.Add(1); <-blocked }
	})
	r.limitHooks(0, 1<<20)
	go func() { _ = r.Put(context.Background(), ds.NewKey("/blocked"), nil) }()
	waitFor(t, "the hook", func() bool { return told.Load() == 1 })
	put = make(chan error, 1)
	go func() { put <- r.Put(ctx, ds.NewKey("/k"), []byte("v")) }()
	waitFor(t, "the Put to wait", func() bool {
		r.hooks.mu.Lock()
		defer r.hooks.mu.Unlock()
		return r.hooks.notFull != nil
	})
	return r, put, sync.OnceFunc(func() { close(blocked) })
}

// A write that was made succeeds, though its context ends while it waits for hooks.
func TestContextThatEndsWhileAWriteWaitsForHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		r, put, unblock := blockedHooks(t, ctx)
		defer unblock()
		begun := time.Now()
		cancel()
		if err := <-put; err != nil || r.get("/k") != "v" || time.Since(begun) > 0 {
			t.Errorf("Put: %v after %s, /k is %s", err, time.Since(begun), r.get("/k"))
		}
	})
}

func TestCloseWhileAWriteWaitsForHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, put, unblock := blockedHooks(t, ctx)
		time.AfterFunc(3*time.Second, unblock)
		r.must(r.Close())
		if err := <-put; err != nil {
			t.Errorf("Put: %v", err)
		}
	})
}

func TestHooksMayWrite(t *testing.T) {
	var r *replica
	opened := make(chan struct{})
	r = newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) {
			<-opened
			if !strings.HasPrefix(k.String(), "/copy") {
				r.put("/copy"+k.String(), string(v))
			}
		}
	})
	close(opened)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { r.put(fmt.Sprintf("/k/%d", i), "v") })
	}
	wg.Wait()
	waitFor(t, "the hooks", func() bool { return len(r.pairs()) == 16 })
}

func TestHooksRunInCommitOrderBeforePutReturns(t *testing.T) {
	var events []string
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { events = append(events, "+"+k.String()+"="+string(v)) }
		o.DeleteHook = func(k ds.Key) { events = append(events, "-"+k.String()) }
	})
	r.put("/a", "1")
	r.put("/a", "2")
	r.del("/a")
	r.del("/a")
	if got := strings.Join(events, " "); got != "+/a=1 +/a=2 -/a" {
		t.Errorf("hooks were told: %s", got)
	}
}

func TestHookValueIsNotTheCallersBuffer(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	seen := make(chan string, 2)
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) {
			if k.String() == "/slow" {
				close(begun)
				<-goOn
			}
			seen <- string(v)
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() { r.put("/slow", "v") })
	<-begun
	buffer := []byte("mine")
	r.must(r.Put(ctx, ds.NewKey("/k"), buffer)) // its hook waits behind the slow one
	copy(buffer, "evil")
	close(goOn)
	wg.Wait()
	<-seen
	if got := <-seen; got != "mine" {
		t.Errorf("the hook was given %q", got)
	}
}
