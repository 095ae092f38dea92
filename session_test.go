package crdt

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// A sessionDAG has sessions that fall silent after a number of blocks.
type sessionDAG struct {
	*testNode
	blocks int

	mu          sync.Mutex
	begun, open int
}

type forgetfulSession struct {
	*sessionDAG
	left int // guarded by mu
}

func (d *sessionDAG) Session(ctx context.Context) ipld.NodeGetter {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun++
	d.open++
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open--
	})
	return &forgetfulSession{d, d.blocks}
}

func (s *forgetfulSession) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	s.mu.Lock()
	s.left--
	silent := s.left < 0
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.testNode.Get(ctx, c)
}

func TestSilentSessionsAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		a := net.newReplica(t)
		for i := range 400 {
			a.put(fmt.Sprint("/", i), "v")
		}
		b := net.newReplica(t, func(o *Options) { o.NumWorkers = 1; o.DAGSyncerTimeout = time.Hour })
		dagSyncer := &sessionDAG{testNode: b.node, blocks: 100}
		b.reopenWith(dagSyncer, nil)
		begun := time.Now()
		b.node.deliver(announcement(a.head()))
		for b.state(a.head()) != complete && time.Since(begun) < time.Hour {
			time.Sleep(time.Second)
		}
		if took := time.Since(begun); took > 8*sessionPatience {
			t.Errorf("400 blocks took %s", took)
		}
		synctest.Wait()
		dagSyncer.mu.Lock()
		defer dagSyncer.mu.Unlock()
		// Four would do. Whenever the requests in a silent session fail sooner than
		// others come, the group has none for a moment, and a new one then.
		if dagSyncer.begun < 2 || dagSyncer.begun > 60 || dagSyncer.open > 0 {
			t.Errorf("of %d sessions %d are open", dagSyncer.begun, dagSyncer.open)
		}
	})
}

// Sessions that fall silent, with time limits below, at and above their patience.
func TestSilentSessionsAndTimeouts(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Second, sessionPatience, time.Minute} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newTestNet()
				a := net.newReplica(t)
				for i := range 200 {
					a.put(fmt.Sprint("/", i), "v")
				}
				b := net.newReplica(t, func(o *Options) { o.NumWorkers = 1; o.DAGSyncerTimeout = limit })
				dagSyncer := &sessionDAG{testNode: b.node, blocks: 50}
				b.reopenWith(dagSyncer, nil)
				begun := time.Now()
				b.node.deliver(announcement(a.head()))
				for b.state(a.head()) != complete && time.Since(begun) < time.Hour {
					time.Sleep(time.Second)
				}
				synctest.Wait()
				dagSyncer.mu.Lock()
				defer dagSyncer.mu.Unlock()
				if dagSyncer.open > 0 || time.Since(begun) > 3*time.Minute {
					t.Errorf("of %d sessions %d are open", dagSyncer.begun, dagSyncer.open)
				}
			})
		})
	}
}

// Whoever announces what nobody has gets no sessions for it: they cost much more than
// requests.
func TestSessionsAreForGroupsOfWhichSomethingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		b := net.newReplica(t, silent)
		dagSyncer := &sessionDAG{testNode: b.node, blocks: 100}
		b.reopenWith(dagSyncer, nil)
		l := newLiar(t, net, b.node)
		for range 200 {
			nobodyHas(l)
			inlineOnDead(l)
			realOnDead(l)
		}
		time.Sleep(10 * time.Second)
		dagSyncer.mu.Lock()
		defer dagSyncer.mu.Unlock()
		if dagSyncer.open > 0 || dagSyncer.begun > 200 {
			t.Errorf("of %d sessions %d are open", dagSyncer.begun, dagSyncer.open)
		}
	})
}

// lateSession gives a block just when patience ends, and there is no second.
type lateDAG struct {
	*testNode
	mu   sync.Mutex
	gets map[cid.Cid]int
}

func (d *lateDAG) Session(context.Context) ipld.NodeGetter { return &lateSession{d} }

type lateSession struct{ *lateDAG }

func (s *lateSession) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	<-ctx.Done() // the block comes in the same moment
	return s.testNode.Get(context.Background(), c)
}

func (d *lateDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	d.mu.Lock()
	d.gets[c]++
	d.mu.Unlock()
	return d.testNode.Get(ctx, c)
}

func TestBlockThatComesLateIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		b := net.newReplica(t)
		dagSyncer := &lateDAG{testNode: b.node, gets: make(map[cid.Cid]int)}
		b.reopenWith(dagSyncer, nil)
		liar := net.node()
		late := liar.forgePriority(t, 1) // asked for in the session that begins when the block above it has come
		b.offer(liar, &pb.Delta{Priority: 2, Elements: oneElement("/k")}, late)
		time.Sleep(10 * time.Second)
		if !b.state(late).merged() {
			t.Fatal("not merged")
		}
		dagSyncer.mu.Lock()
		defer dagSyncer.mu.Unlock()
		if n := dagSyncer.gets[late]; n > 0 {
			t.Errorf("a block that had come was asked for %d times more", n)
		}
	})
}
