package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// meetTime is how long a program that is about to write and exit looks around
// for peers. Those on a local network answer well within.
const meetTime = time.Second

// errQuit ends a session.
var errQuit = errors.New("quit")

// shell runs commands on a node: one from the arguments, or many from a stream.
type shell struct {
	stdio
	config
	node  *node
	wrote bool // something that peers should have before we exit
}

// once runs the command given as arguments.
func (s *shell) once(ctx context.Context, args []string) error {
	if c, err := findCommand(args); err == nil && c.writes {
		s.meet(ctx)
	}
	err := s.execute(ctx, args)
	s.share(ctx)
	if errors.Is(err, errQuit) {
		return nil
	}
	return err
}

// session runs one command a line until the input or ctx ends. A command that
// fails does not end it, but makes a script, though not a person, fail.
func (s *shell) session(ctx context.Context) error {
	s.greet()
	interactive := isTerminal(s.in)
	failed, err := s.runLines(ctx, interactive)
	if interactive {
		fmt.Fprintln(s.notes) // leave the line of the prompt
	}
	s.share(ctx)
	if err == nil && failed > 0 && !interactive {
		err = fmt.Errorf("%d of the commands failed", failed)
	}
	return err
}

// runLines counts the commands that failed. Its own error is one of reading.
func (s *shell) runLines(ctx context.Context, prompt bool) (failed int, err error) {
	input := feedLines(ctx, s.in)
	for {
		if prompt {
			fmt.Fprint(s.notes, "> ")
		}
		line, err := input.next(ctx)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return failed, nil
		}
		if err != nil {
			return failed, fmt.Errorf("cannot read commands: %w", err)
		}
		switch err := s.executeLine(ctx, line); {
		case errors.Is(err, errQuit):
			return failed, nil
		case err != nil:
			failed++
			fmt.Fprintln(s.notes, "error:", err)
		}
	}
}

// greet tells a person at another terminal how to join.
func (s *shell) greet() {
	fmt.Fprintln(s.notes, "this node is", s.node.host.ID())
	for _, addr := range s.node.addresses() {
		fmt.Fprintln(s.notes, "others may -connect", addr)
	}
}

func (s *shell) executeLine(ctx context.Context, line string) error {
	args, err := splitWords(line)
	if err != nil || len(args) == 0 {
		return err
	}
	return s.execute(ctx, args)
}

func (s *shell) execute(ctx context.Context, args []string) error {
	c, err := findCommand(args)
	if err != nil {
		return err
	}
	s.wrote = s.wrote || c.writes
	return c.run(s, ctx, args[1:])
}

// meet waits a moment for a peer that will hear of what is written next. It
// does not wait where none is to be expected.
func (s *shell) meet(ctx context.Context) {
	if !s.mdns && len(s.connect) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	_ = await(ctx, func() bool { return len(s.node.replicas()) > 0 })
}

// share waits until the peers have what was written here, for they cannot get
// it from a node that has gone.
func (s *shell) share(ctx context.Context) {
	if !s.wrote {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	if await(ctx, func() bool { return len(s.node.behind(ctx)) == 0 }) != nil {
		fmt.Fprintln(s.notes, "written here, but not all connected peers have taken it over yet;"+
			" they will when this store is online again")
	}
}
