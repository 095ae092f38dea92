package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows which job is running, how many there are, and the time that passed and
// that is left. Where there is no terminal to redraw a line on, every job gets its own.
type progress struct {
	out        io.Writer
	bar        *progressbar.ProgressBar
	start, end string // around what is shown
}

func newProgress(out *os.File, jobs int) *progress {
	p := &progress{out: out, end: "\n"}
	if term.IsTerminal(int(out.Fd())) {
		p.start, p.end = "\r\x1b[K", ""
	}
	p.bar = progressbar.NewOptions(jobs,
		progressbar.OptionSetWriter(io.Discard),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(20),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetElapsedTime(true),
	)
	return p
}

// begin shows the job that is about to run.
func (p *progress) begin(j job) {
	p.bar.Describe(fmt.Sprintf("%-36s", j))
	fmt.Fprint(p.out, p.start, strings.TrimSpace(p.bar.String()), p.end)
}

func (p *progress) done() { _ = p.bar.Add(1) }

// finish leaves the terminal's line to what is printed next.
func (p *progress) finish() { fmt.Fprint(p.out, p.start) }
