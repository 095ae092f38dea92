package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// answerWithin is how long a peer may take for one request. One that takes longer is
// made to print its goroutines and die.
const answerWithin = time.Minute

// peer is a running peer process. Calls on one peer must not overlap.
type peer struct {
	t      *testing.T
	kind   kind
	dir    string // of its store
	addr   string
	cmd    *exec.Cmd
	in     *json.Encoder
	out    *json.Decoder
	stderr bytes.Buffer // to be read once the process has ended
}

// start runs a peer on a new store.
func start(t *testing.T, k kind, flags ...string) *peer {
	t.Helper()
	return reopen(t, k, t.TempDir(), flags...)
}

// reopen runs a peer on a store that is already there. The process ends with the test
// at the latest.
func reopen(t *testing.T, k kind, dir string, flags ...string) *peer {
	t.Helper()
	flags = append([]string{"-dir", dir}, flags...)
	p := &peer{t: t, kind: k, dir: dir, cmd: exec.Command(k.program("peer"), flags...)}
	if err := p.run(); err != nil {
		p.kill()
		t.Fatalf("starting the %s peer: %v\n%s", k.name, err, &p.stderr)
	}
	return p
}

func (p *peer) run() error {
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.cmd.Stderr = &p.stderr
	p.in, p.out = json.NewEncoder(stdin), json.NewDecoder(stdout)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.t.Cleanup(p.end)
	hello, err := p.next()
	p.addr = hello.Addr
	return err
}

// end kills the process if it still runs and, when the test failed, shows what it logged.
func (p *peer) end() {
	p.kill()
	if p.t.Failed() && p.stderr.Len() > 0 {
		p.t.Logf("the %s peer at %s logged:\n%s", p.kind.name, p.addr, &p.stderr)
	}
}

// kill ends the process the hard way: nothing is closed.
func (p *peer) kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// close ends the process in good order.
func (p *peer) close() {
	p.t.Helper()
	p.ask(wire.Request{Op: wire.Close})
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("the %s peer, after it closed: %v", p.kind.name, err)
	}
}

// ask sends a request that must succeed.
func (p *peer) ask(req wire.Request) wire.Response {
	p.t.Helper()
	resp, err := p.tell(req)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

// tell is ask for goroutines, which can't end the test.
func (p *peer) tell(req wire.Request) (wire.Response, error) {
	if err := p.in.Encode(req); err != nil {
		return wire.Response{}, fmt.Errorf("%s peer, %s %s: %w", p.kind.name, req.Op, req.Key, err)
	}
	resp, err := p.next()
	if err != nil {
		return resp, fmt.Errorf("%s peer, %s %s: %w", p.kind.name, req.Op, req.Key, err)
	}
	return resp, nil
}

func (p *peer) next() (wire.Response, error) {
	hung := time.AfterFunc(answerWithin, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer hung.Stop()
	var resp wire.Response
	if err := p.out.Decode(&resp); err != nil {
		return resp, fmt.Errorf("no answer: %w", err)
	}
	if resp.Error != "" {
		return resp, fmt.Errorf("answered: %s", resp.Error)
	}
	return resp, nil
}

// refused runs a peer on a store that it must not open, and gives what it says of it.
func refused(t *testing.T, k kind, dir string) string {
	t.Helper()
	p := &peer{t: t, kind: k, dir: dir, cmd: exec.Command(k.program("peer"), "-dir", dir)}
	if p.run() == nil {
		t.Fatalf("the %s peer opens the store", k.name)
	}
	_ = p.cmd.Wait()
	return p.stderr.String()
}
