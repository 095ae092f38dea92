package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// A meter follows a phase: it counts keys, adds a row to the table for each
// window, and shows the progress.
type meter struct {
	phase   string
	dir     string // whose disk usage to record
	window  int
	table   *table
	sampler *sampler
	begun   time.Time
	count   atomic.Int64

	mu   sync.Mutex
	last row
	err  error // of the table

	finish func() // takes the progress off the screen
}

// meter begins a phase. Its stop ends it.
func (b *bench) meter(phase string, keys int, dir string) *meter {
	m := &meter{phase: phase, dir: dir, window: b.window, table: b.table, sampler: b.sampler, begun: time.Now()}
	b.sampler.take() // what was before is not of this phase
	m.finish = show(b.out, phase, keys, dir, func() int { return int(m.count.Load()) })
	return m
}

// add counts keys. It must be called from one goroutine at a time.
func (m *meter) add(keys int) {
	before := m.count.Load()
	now := m.count.Add(int64(keys))
	if w := int64(m.window); before/w != now/w {
		m.record()
	}
}

func (m *meter) record() {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := row{phase: m.phase, keys: int(m.count.Load()), seconds: time.Since(m.begun).Seconds(), disk: diskUsage(m.dir)}
	r.rate = float64(r.keys-m.last.keys) / (r.seconds - m.last.seconds)
	r.now, r.peak = m.sampler.take()
	if err := m.table.add(r); err != nil {
		m.err = err
	}
	m.last = r
}

// stop ends the phase, with a row for what is left of the last window.
func (m *meter) stop() error {
	m.finish()
	if int(m.count.Load()) > m.last.keys {
		m.record()
	}
	return m.err
}
