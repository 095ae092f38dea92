package crdt

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// warnings is a logger that keeps warnings.
type warnings struct {
	logging.StandardLogger
	mu    sync.Mutex
	lines []string
}

// instead makes it take the place of another, which gets all else.
func (w *warnings) instead(of logging.StandardLogger) *warnings {
	w.StandardLogger = of
	return w
}

func (w *warnings) Warnf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &warnings{}
		l := boundedLog{write: log.Warnf, what: "refusing a block"}
		for i := range 1000 {
			l.report(fmt.Errorf("bad block %d", i))
		}
		if n := len(log.lines); n != linesLogged {
			t.Errorf("%d lines", n)
		}
		time.Sleep(logPeriod + 1)
		l.report(errors.New("bad again"))
		if got := log.lines[linesLogged:]; len(got) != 2 || !strings.Contains(got[0], "990 more") {
			t.Errorf("later: %q", got)
		}
	})
}
