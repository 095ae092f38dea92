package crdt

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
)

// errorLines is a logger that keeps errors.
type errorLines struct {
	logging.StandardLogger
	mu    sync.Mutex
	lines []string
}

func (e *errorLines) Errorf(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

func (e *errorLines) log(o *Options) {
	silent(o)
	e.StandardLogger, o.Logger = o.Logger, e
}

// names reports whether a line names both of two checkpoints.
func (e *errorLines) names(a, b cid.Cid) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range e.lines {
		if strings.Contains(line, a.String()) && strings.Contains(line, b.String()) {
			return true
		}
	}
	return false
}

func keepNoHistory(o *Options) { o.KeepHistory = 10 * time.Millisecond }

// dispute has a liar announce a checkpoint of the heads that contradicts what those who
// took one make of these, and waits until all have judged it, or passed it over.
func (s *liesTest) dispute(round int) Head {
	s.t.Helper()
	r := s.replicas[round%len(s.replicas)]
	name := r.sound().snapshot
	name.entries++
	lie := r.forgeCheckpoint(s.liar, name)
	for i, r := range s.replicas {
		waitFor(s.t, fmt.Sprintf("replica %d to judge lie %d", i, round), func() bool {
			return r.checkpointState(lie.Cid) == checkpointVoid || r.newestHeld().tip.Height >= lie.Height
		})
	}
	return lie
}

// Replicas that have all taken the same checkpoint go on making others, holding them and
// dropping history, however often a liar contradicts what they took.
func TestLiarAmongThoseWhoTookACheckpoint(t *testing.T) { synctest.Test(t, lieToTakers) }

func lieToTakers(t *testing.T) {
	n := 20
	if testing.Short() {
		n = 4
	}
	s := &liesTest{t: t, net: newTestNet()}
	founder := s.net.newReplica(t, silent)
	founder.put("/once", "of the founder")
	founder.overwrite(0, 10)
	first := founder.checkpoint()
	for range n {
		r := s.net.newReplica(t, silent, every(2*n), keepNoHistory)
		r.awaitHeld(first)
		if !r.known(first).taken {
			t.Fatal("a newcomer has not taken the checkpoint")
		}
		s.replicas = append(s.replicas, r)
	}
	founder.node.away(true)
	s.liar = s.net.node()
	for round := range 5 {
		s.writeAll(round)
		converge(t, s.replicas...)
		lie := s.dispute(round)
		for i, r := range s.replicas { // on their own, and above the lie
			for r.newestHeld().tip.Height <= lie.Height {
				if s.writeAll(round); r.InternalStats(ctx).Heads[0].Height > lie.Height+uint64(100*n) {
					t.Fatalf("replica %d holds no checkpoint above lie %d", i, round)
				}
				time.Sleep(time.Second)
			}
		}
	}
	converge(t, s.replicas...)
	last, judged := s.replicas[1].checkpoint(), uint64(0)
	for i, r := range s.replicas {
		r.awaitHeld(last)
		waitFor(t, fmt.Sprintf("replica %d to drop history", i), func() bool { return len(r.rowsUnder("/b")) < 2*n })
		judged += r.InternalStats(ctx).VoidCheckpoints
		if got := r.get("/once"); got != "of the founder" {
			t.Errorf("replica %d has /once: %s", i, got)
		}
	}
	if judged == 0 { // most may have passed them over
		t.Error("no lie has been judged")
	}
}

// A newcomer that believed a liar stands by what it took, as it cannot know better. It says
// so whenever a checkpoint of others contradicts that, goes on with what it has, and harms
// nobody else. It is right once what was false is gone, or it has joined again.
func TestNewcomerThatBelievedALiar(t *testing.T) {
	for name, remedy := range map[string]func(*replica){
		"what was false goes": func(r *replica) { r.del("/lie") },
		"it joins again": func(r *replica) {
			_, err := r.PurgeDAG(ctx, "")
			r.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { believeALiar(t, remedy) })
		})
	}
}

func believeALiar(t *testing.T, remedy func(*replica)) {
	n := 20
	if testing.Short() {
		n = 4
	}
	s := &liesTest{t: t, net: newTestNet()}
	s.liar = s.net.node()
	for range n {
		s.replicas = append(s.replicas, s.net.newReplica(t, silent, keepNoHistory))
	}
	s.writeAll(0)
	s.writeAll(1)
	converge(t, s.replicas...)
	f := s.replicas[0].snapshot("")
	f.entries = append(f.entries, entry{key: "/lie", id: f.cover[0], priority: 1 << 40, value: []byte("x")})
	lie := f.publish(t, s.liar)
	log := &errorLines{}
	r := s.net.newReplica(t, keepNoHistory, log.log)
	parts := make([]int, n+2) // the liar is the first node, and the newcomer the last one
	for i := range n {
		parts[i+1] = 1
	}
	s.net.split(parts...)
	r.node.deliver(announcement(lie))
	r.awaitCheckpoint(lie, checkpointHeld)
	s.net.heal()
	for _, o := range s.replicas {
		o.awaitCheckpoint(lie, checkpointVoid)
	}
	for round := range 5 {
		s.writeAll(round)
		converge(t, s.replicas...)
		base := r.newestHeld()
		honest := s.replicas[round%n].checkpoint()
		for _, o := range s.replicas {
			o.awaitHeld(honest)
		}
		r.awaitCheckpoint(honest.Cid, checkpointVoid)
		if !log.names(honest.Cid, base.id.Cid()) {
			t.Errorf("the newcomer does not say that %s contradicts %s: %q", honest.Cid, base.id.Cid(), log.lines)
		}
		own := r.checkpoint()
		for i, o := range s.replicas {
			waitFor(t, fmt.Sprintf("replica %d to judge what the newcomer makes", i), func() bool { return o.known(own) == nil || o.known(own).state == checkpointVoid })
		}
		waitFor(t, "the newcomer to drop history", func() bool { return len(r.rowsUnder("/b")) < 4*n })
		want := s.replicas[0].pairs()
		if want["/lie"] = "x"; !maps.Equal(r.pairs(), want) {
			t.Errorf("the newcomer has %v, want %v", r.pairs(), want)
		}
	}
	if r.InternalStats(ctx).VoidCheckpoints < 5 {
		t.Error("what contradicts the newcomer is not counted")
	}
	for i, o := range s.replicas {
		s.checkNotBelieved(fmt.Sprint("replica ", i), o)
	}
	s.replicas[0].put("/before", "the remedy")
	newest := s.replicas[0].checkpoint() // or it might take its own once more
	r.awaitCheckpoint(newest.Cid, checkpointVoid)
	remedy(r)
	converge(t, append(s.replicas, r)...)
	s.replicas[0].put("/after", "the remedy")
	r.awaitHeld(s.replicas[0].checkpoint())
	s.checkNotBelieved("the newcomer", r)
}

// Where what was taken may be wrong, others make the next checkpoints: newcomers take the
// newest. If they make none, it is made here.
func TestOthersGoFirstWhereWhatWasTakenMayBeWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		founder, liar := net.newReplica(t, silent), net.node()
		founder.overwrite(0, 10)
		first := founder.checkpoint()
		r := net.newReplica(t, silent, every(10))
		r.awaitHeld(first)
		founder.node.away(true)
		write := func(n int) {
			for i := range n {
				r.put(fmt.Sprint("/", i), "")
			}
			time.Sleep(time.Minute)
		}
		for range 2 { // what comes of a lie ends with the next checkpoint
			base := r.known(r.checkpoint()) // counting begins anew
			name := r.sound().snapshot
			name.entries++
			r.awaitState(r.forgeCheckpoint(liar, name), checkpointVoid)
			if write(10*othersFirst - 2); r.newestHeld() != base {
				t.Error("one is made before others could make one")
			}
			if write(1); r.newestHeld() == base {
				t.Error("none is made, though others make none")
			}
			base = r.newestHeld()
			if write(10); r.newestHeld() == base {
				t.Error("none is made any more")
			}
		}
	})
}

func TestVoidCheckpointsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, log := newTestNet(), &errorLines{}
		liar, r := net.node(), net.newReplica(t, log.log)
		r.put("/a", "1")
		name := r.sound().snapshot
		const lies = 5 * linesLogged
		links := []cid.Cid{r.head()}
		for i := range lies {
			name.entries++
			r.offer(liar, &pb.Delta{Priority: uint64(100 + i), Checkpoint: name.message()}, links...)
		}
		waitFor(t, "all to be judged", func() bool { return r.InternalStats(ctx).VoidCheckpoints == lies })
		if n := len(log.lines); n != linesLogged {
			t.Errorf("%d lines are logged", n)
		}
	})
}
