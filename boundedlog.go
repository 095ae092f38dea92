package crdt

import "time"

// A boundedLog keeps whoever sends bad blocks from filling the log.
type boundedLog struct {
	write func(format string, args ...any)
	what  string // is logged
	begun time.Time
	count int
}

const (
	linesLogged = 10 // in each period
	logPeriod   = time.Minute
)

func (l *boundedLog) report(err error) {
	if time.Since(l.begun) > logPeriod {
		if more := l.count - linesLogged; more > 0 {
			l.write("%s: %d more", l.what, more)
		}
		l.begun, l.count = time.Now(), 0
	}
	if l.count++; l.count <= linesLogged {
		l.write("%s: %s", l.what, err)
	}
}
