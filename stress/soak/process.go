package main

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// answerWithin is how long a call may take. A replica that takes longer hangs.
	answerWithin = time.Minute
	// leaveWithin is longer than Close may take.
	leaveWithin = time.Minute
)

// process is one life of a replica: from its start to its end.
type process struct {
	cmd    *exec.Cmd
	client *rpc.Client
	addr   string
	ending atomic.Bool   // set before its end is brought about
	ended  chan struct{} // closed when it has ended, and err is set
	err    error
}

// spawn starts this program again as a replica that keeps its things in dir, and waits
// until it is open.
func spawn(dir string, args []string, logs *os.File) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), replicaDir+"="+dir)
	cmd.Stderr, cmd.SysProcAttr = logs, ofChild()
	pipes, err := begin(cmd)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, client: rpc.NewClient(pipes), ended: make(chan struct{})}
	go p.wait()
	if err := p.call("Addr", None{}, &p.addr); err != nil {
		p.kill()
		return nil, fmt.Errorf("opening: %w", err)
	}
	return p, nil
}

// pipes are the child's stdout, which is read to its end, and stdin.
type pipes struct {
	out *os.File
	io.WriteCloser
}

func (p pipes) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err != nil {
		_ = p.out.Close()
	}
	return n, err
}

// begin starts the child. Unlike with StdoutPipe, what it answered before it was killed
// can be read afterwards.
func begin(cmd *exec.Cmd) (pipes, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return pipes{}, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return pipes{}, err
	}
	cmd.Stdout = in
	return pipes{out, stdin}, errors.Join(cmd.Start(), in.Close())
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// call calls a method of Service.
func (p *process) call(method string, args, result any) error {
	call := p.client.Go("Replica."+method, args, result, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return call.Error
	case <-time.After(answerWithin):
		_ = p.dump()
		return fmt.Errorf("%w: %s was not answered within %v; the log has the goroutines", errHangs, method, answerWithin)
	}
}

var errHangs = errors.New("it hangs")

// gone says whether an error of call is due to the process' end. Else the replica refused
// to do it, or hangs.
func gone(err error) bool {
	var refused rpc.ServerError
	return !errors.As(err, &refused) && !errors.Is(err, errHangs)
}

// dump makes the replica print its goroutines and die.
func (p *process) dump() error {
	p.ending.Store(true)
	return p.cmd.Process.Signal(syscall.SIGQUIT)
}

// kill ends it the hard way: nothing is closed.
func (p *process) kill() {
	p.ending.Store(true)
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.ended
}

// leave lets it close its replica and end.
func (p *process) leave() error {
	p.ending.Store(true)
	_ = p.client.Close()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(leaveWithin):
		_ = p.dump()
		return fmt.Errorf("it has not closed within %v; the log has the goroutines", leaveWithin)
	}
}
