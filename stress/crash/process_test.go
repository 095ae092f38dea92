package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take that ought to happen at once.
const patience = 2 * time.Minute

// A process is the parent's view of one run of a child.
type process struct {
	*conn
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer // read it after ended
	ledger *ledger
	reads  *readCount
	link   *link // of the peer
	opened <-chan struct{}
	ready  <-chan struct{}
	ended  chan struct{}

	mu        sync.Mutex
	seen      map[kind]int // messages received
	tripwires []*tripwire
	lastID    uint64
	replies   map[uint64]chan message
	err       string // from broken
}

// A tripwire is cut by a message.
type tripwire struct {
	kind kind
	nth  int
	cut  chan struct{}
}

func startProcess(t *testing.T, cfg childConfig, led *ledger, peer *link, reads *readCount) *process {
	t.Helper()
	config, err := json.Marshal(cfg)
	must(t, err)
	p := &process{
		t: t, ledger: led, link: peer, reads: reads,
		cmd:     exec.Command(os.Args[0]),
		ended:   make(chan struct{}),
		seen:    make(map[kind]int),
		replies: make(map[uint64]chan message),
	}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(config))
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	p.conn = newConn(out, in)
	p.opened, p.ready = p.nth(1, opened), p.nth(1, ready)
	go p.listen()
	return p
}

// listen receives until the child is gone, and all that it has sent.
func (p *process) listen() {
	defer close(p.ended)
	for {
		m, err := p.receive()
		if err != nil {
			return
		}
		p.handle(m)
		p.count(m.Kind)
	}
}

func (p *process) handle(m message) {
	switch m.Kind {
	case opened:
		p.link.connect(p.conn)
	case begun:
		p.ledger.begin(byChild, m.ID, m.Op)
	case acked:
		p.ledger.end(m.ID)
	case read:
		p.reads.add(string(m.Data), m.Found)
	case reply:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.replies[m.ID] <- m
	case broken:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err = m.Error
	default:
		p.link.receive(m)
	}
}

func (p *process) count(k kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[k]++
	for _, w := range p.tripwires {
		if w.kind == k && w.nth == p.seen[k] {
			close(w.cut)
		}
	}
}

// nth returns a channel that is closed when the child has sent so many more
// messages of a kind.
func (p *process) nth(n int, k kind) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &tripwire{kind: k, nth: p.seen[k] + n, cut: make(chan struct{})}
	p.tripwires = append(p.tripwires, w)
	return w.cut
}

// await waits for a channel to be closed. The child must not end before.
func (p *process) await(c <-chan struct{}, what string) {
	p.t.Helper()
	select {
	case <-c:
	case <-p.ended:
		p.t.Fatalf("the child ended before %s: %v %s\n%s", what, p.cmd.Wait(), p.complaint(), &p.stderr)
	case <-time.After(patience):
		p.t.Fatalf("waited %v for %s", patience, what)
	}
}

func (p *process) complaint() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// ask has the child do something and returns its reply.
func (p *process) ask(m message) message {
	p.t.Helper()
	answer := make(chan message, 1)
	p.mu.Lock()
	p.lastID++
	m.ID = p.lastID
	p.replies[m.ID] = answer
	p.mu.Unlock()
	must(p.t, p.send(m))
	select {
	case got := <-answer:
		if got.Error != "" {
			p.t.Fatalf("the child cannot do %d: %s", m.Kind, got.Error)
		}
		return got
	case <-p.ended:
		p.t.Fatalf("the child ended when it was asked for %d: %v %s\n%s", m.Kind, p.cmd.Wait(), p.complaint(), &p.stderr)
	case <-time.After(patience):
		p.t.Fatalf("waited %v for the reply to %d", patience, m.Kind)
	}
	return message{}
}

func (p *process) state() state { return p.ask(message{Kind: tellState}).State }

func (p *process) pairs() map[string]string {
	p.t.Helper()
	return p.ask(message{Kind: tellPairs}).Pairs
}

// kill sends SIGKILL and takes what the child had sent before. It tells whether
// the child was still there. It must not have ended by itself, unless it was
// told to close.
func (p *process) kill() bool {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	<-p.ended
	err := p.cmd.Wait()
	p.link.disconnect()
	p.ledger.childDied()
	if p.complaint() != "" || err != nil && err.Error() != "signal: killed" {
		p.t.Fatalf("the child failed: %v: %s\n%s", err, p.complaint(), &p.stderr)
	}
	return err != nil
}

// close has the child close and end.
func (p *process) close() {
	p.t.Helper()
	must(p.t, p.send(message{Kind: closeDown}))
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("waited %v for Close", patience)
	}
	if p.kill() {
		p.t.Fatal("the child was killed, and should have closed")
	}
}

// inspect checks that the history of the heads is whole. Nothing is fetched any
// more in this run; what is read for it is not counted.
func (p *process) inspect() {
	p.t.Helper()
	p.reads.pause()
	p.ask(message{Kind: inspect})
}

// awaitQuiet waits until no block has been read for a while.
func (p *process) awaitQuiet() {
	for last := -1; last != p.reads.total(); {
		last = p.reads.total()
		time.Sleep(200 * time.Millisecond)
	}
}
