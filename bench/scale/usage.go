package main

import (
	"bufio"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A usage says what the process takes, in bytes.
type usage struct {
	heap  uint64 // objects on the Go heap, dead ones that are not swept yet included
	inuse uint64 // the spans that they lie in
	rss   uint64 // resident memory; 0 where there is no /proc
	anon  uint64 // of it, what is not a mapped file, such as Badger's tables
}

func (u *usage) raise(v usage) {
	u.heap, u.inuse = max(u.heap, v.heap), max(u.inuse, v.inuse)
	u.rss, u.anon = max(u.rss, v.rss), max(u.anon, v.anon)
}

// readUsage does not stop the world, as runtime.ReadMemStats would.
func readUsage() usage {
	s := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	metrics.Read(s)
	u := usage{heap: s[0].Value.Uint64()}
	u.inuse = u.heap + s[1].Value.Uint64()
	u.rss, u.anon = resident()
	return u
}

// resident reads two lines of Linux's status file: "VmRSS:   1234 kB".
func resident() (rss, anon uint64) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kB, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
		switch name {
		case "VmRSS":
			rss = kB << 10
		case "RssAnon":
			anon = kB << 10
		}
	}
	return rss, anon
}

// A sampler looks at the usage ten times a second and keeps the maxima.
type sampler struct {
	mu     sync.Mutex
	all    usage // since the start
	recent usage // since the last take
	stop   chan struct{}
	done   sync.WaitGroup
}

func startSampler() *sampler {
	s := &sampler{stop: make(chan struct{})}
	s.look()
	s.done.Go(s.run)
	return s
}

func (s *sampler) run() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.look()
		case <-s.stop:
			return
		}
	}
}

func (s *sampler) look() usage {
	now := readUsage()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.raise(now)
	s.recent.raise(now)
	return now
}

// take returns the usage now, and the maxima since the last take.
func (s *sampler) take() (now, recent usage) {
	now = s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	recent, s.recent = s.recent, usage{}
	return now, recent
}

func (s *sampler) peak() usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

func (s *sampler) close() {
	close(s.stop)
	s.done.Wait()
}
