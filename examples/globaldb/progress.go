package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// newBar shows how far a job over keys is and how many keys/s it does; Finish
// ends it. A total of -1 is unknown. Where there is no terminal to redraw a
// line on, it prints a plain line now and then.
func newBar(out io.Writer, what string, total int) *progressbar.ProgressBar {
	opts := []progressbar.Option{
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetItsString("keys"),
		progressbar.OptionShowIts(),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(25),
		progressbar.OptionSetPredictTime(false),
	}
	if isTerminal(out) {
		opts = append(opts, progressbar.OptionSetWriter(out), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionOnCompletion(func() { fmt.Fprintln(out) }))
	} else {
		opts = append(opts, progressbar.OptionSetWriter(plainLines{out}), progressbar.OptionThrottle(500*time.Millisecond))
	}
	bar := progressbar.NewOptions(total, opts...)
	bar.StartWithoutRender() // so that the rate does not count from the first key on
	return bar
}

// plainLines turns a bar's redraws, which start with a carriage return, into
// lines of their own.
type plainLines struct{ out io.Writer }

// Write implements io.Writer.
func (p plainLines) Write(redraw []byte) (int, error) {
	if text := bytes.TrimSpace(redraw); len(text) > 0 {
		if _, err := p.out.Write(append(append([]byte("  "), text...), '\n')); err != nil {
			return 0, err
		}
	}
	return len(redraw), nil
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// thousands writes a count the way people read it: 34,823.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
