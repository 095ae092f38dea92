package crash

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A trial kills one replica again and again. All runs of it have one directory,
// and one peer.
type trial struct {
	t      *testing.T
	rand   *rand.Rand
	config childConfig
	ledger *ledger
	peer   *peer
	reads  readSum
	begun  time.Time
	limit  int // of kills

	runs, kills, closed, checked, converged, told int
}

func newTrial(t *testing.T, kind string, opts replicaOptions) *trial {
	t.Helper()
	led := newLedger()
	return &trial{
		t:      t,
		rand:   rand.New(rand.NewPCG(*seed, uint64(len(t.Name())))),
		config: childConfig{Store: kind, Dir: t.TempDir(), Options: opts},
		ledger: led,
		peer:   newPeer(t, led, opts),
		reads:  readSum{seen: blockSet{set: make(map[string]bool)}},
		begun:  time.Now(),
		limit:  *kills,
	}
}

func (tr *trial) start() *process {
	tr.t.Helper()
	tr.runs++
	return startProcess(tr.t, tr.config, tr.ledger, tr.peer.link, tr.reads.begin())
}

// awaitReady waits until the child has opened, and checks that it has whatever
// was acknowledged.
func (tr *trial) awaitReady(p *process) {
	tr.t.Helper()
	p.await(p.ready, "New to return")
	must(tr.t, tr.ledger.restarted(p.pairs()))
	tr.checked++
}

// converge waits until child and peer agree, while nobody writes.
func (tr *trial) converge(p *process) {
	tr.t.Helper()
	must(tr.t, tr.ledger.converged(tr.peer.converge(p)))
	tr.converged++
}

// kill kills the child.
func (tr *trial) kill(p *process) {
	tr.t.Helper()
	if p.kill() {
		tr.kills++
	} else {
		tr.closed++
	}
	tr.reads.end(p.reads)
}

// done tells whether the child was killed often enough, and now and then how
// far that is.
func (tr *trial) done() bool {
	if tr.kills >= tr.told+max(1, tr.limit/10) {
		tr.told = tr.kills
		tr.t.Log(tr)
	}
	return tr.kills >= tr.limit
}

func (tr *trial) String() string {
	return fmt.Sprintf("%v: %d kills, %d times closed before; checked %d times, converged %d times; %d operations acknowledged; %s",
		time.Since(tr.begun).Round(100*time.Millisecond), tr.kills, tr.closed, tr.checked, tr.converged, tr.ledger.acknowledged(), &tr.reads)
}

// pause waits a random moment: that is the fault.
func (tr *trial) pause(most time.Duration) { time.Sleep(time.Duration(tr.rand.Int64N(int64(most)))) }

// load has child and peer write until the returned function is called. The child
// may be killed before.
func (tr *trial) load(p *process, childs load) (stop func()) {
	tr.t.Helper()
	childs.Name, childs.Seed, childs.FirstID = "child", tr.rand.Uint64(), uint64(tr.runs)<<32
	p.ask(message{Kind: startLoad, Load: childs})
	return tr.peer.start(load{Name: "peer", Seed: tr.rand.Uint64(), Writers: 2, Pause: 3 * time.Millisecond})
}

// die kills the child after a random moment of what it is doing, or after a
// random number of messages of a kind.
func (tr *trial) die(p *process, k kind, most int) {
	tr.t.Helper()
	switch tr.rand.IntN(4) {
	case 0, 1:
		tr.pause(150 * time.Millisecond)
	case 2:
		select {
		case <-p.nth(1+tr.rand.IntN(most), k):
		case <-time.After(time.Second): // there are not so many
		}
	case 3:
		tr.pause(80 * time.Millisecond)
		isClosing := p.nth(1, closing)
		must(tr.t, p.send(message{Kind: closeDown}))
		p.await(isClosing, "Close to begin")
		tr.pause(10 * time.Millisecond)
	}
	tr.kill(p)
}

// dieOpening kills the child before or soon after New has returned.
func (tr *trial) dieOpening() {
	tr.t.Helper()
	p := tr.start()
	tr.pause(150 * time.Millisecond)
	tr.kill(p)
}
