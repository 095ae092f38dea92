package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A display shows how far something is.
type display interface {
	update(keys int, note string)
	finish()
}

// show shows the progress of something over keys until the function that it
// returns is called. dir is where to look at the disk usage.
func show(out io.Writer, what string, total int, dir string, count func() int) (finish func()) {
	d, pause := newDisplay(out, what, total)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				d.update(count(), note(dir))
			case <-stop:
				d.update(count(), note(dir))
				d.finish()
				return
			}
		}
	})
	return func() { close(stop); done.Wait() }
}

func note(dir string) string {
	return fmt.Sprintf("heap %s, disk %s", humanize.IBytes(readUsage().heap), humanize.IBytes(diskUsage(dir)))
}

func newDisplay(out io.Writer, what string, total int) (display, time.Duration) {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return newBar(f, what, total), time.Second / 2
	}
	return &lines{out: out, what: what, total: total, begun: time.Now(), at: time.Now()}, 10 * time.Second
}

// A bar redraws one line of a terminal.
type bar struct {
	*progressbar.ProgressBar
	out  io.Writer
	what string
}

func newBar(out io.Writer, what string, total int) *bar {
	b := progressbar.NewOptions(total,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetItsString("keys"),
		progressbar.OptionShowIts(),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(20),
	)
	b.StartWithoutRender() // so that the rate does not count from the first key on
	return &bar{b, out, what}
}

func (b *bar) update(keys int, note string) {
	b.Describe(fmt.Sprintf("%-6s %s", b.what, note))
	_ = b.Set(keys)
}

func (b *bar) finish() { fmt.Fprintln(b.out) }

// lines prints a line now and then where there is no terminal.
type lines struct {
	out   io.Writer
	what  string
	total int
	begun time.Time
	at    time.Time // of the last line
	keys  int       // that it told
}

func (l *lines) update(keys int, note string) {
	now := time.Now()
	rate := float64(keys-l.keys) / now.Sub(l.at).Seconds()
	left := "?"
	if keys > 0 {
		perKey := float64(now.Sub(l.begun)) / float64(keys)
		left = time.Duration(perKey * float64(l.total-keys)).Round(time.Second).String()
	}
	fmt.Fprintf(l.out, "%-6s %3d %%  %s of %s keys, %.0f keys/s, %s left, %s\n",
		l.what, 100*keys/l.total, humanize.Comma(int64(keys)), humanize.Comma(int64(l.total)), rate, left, note)
	l.at, l.keys = now, keys
}

func (l *lines) finish() {}
