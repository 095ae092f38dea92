package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
)

// profileRate makes one sample of so many allocated bytes: often enough to see a megabyte.
const profileRate = 64 << 10

func heapNow() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// measure collects garbage twice: a profile shows the heap as of the last but one
// collection.
func measure() Usage {
	runtime.GC()
	debug.FreeOSMemory()
	heap := heapNow()
	u := Usage{Goroutines: runtime.NumGoroutine()}
	for _, r := range heapProfile() {
		at := functions(r.Stack())
		switch {
		case anyIn(at, "github.com/dgraph-io/"):
			u.Badger += inUse(r)
		case anyIn(at, "github.com/ipfs/go-ds-crdt."):
			u.Crdt += inUse(r)
		}
	}
	u.Heap = heap - min(heap, u.Badger)
	return u
}

func heapProfile() []runtime.MemProfileRecord {
	for size := 1000; ; size *= 2 {
		records := make([]runtime.MemProfileRecord, size)
		if n, ok := runtime.MemProfile(records, false); ok {
			return records[:n]
		}
	}
}

// inUse estimates, as pprof does, how much is in use of what a sample stands for.
func inUse(r runtime.MemProfileRecord) uint64 {
	if r.InUseObjects() == 0 {
		return 0
	}
	bytes := float64(r.InUseBytes())
	mean := bytes / float64(r.InUseObjects())
	return uint64(bytes / (1 - math.Exp(-mean/profileRate)))
}

func functions(stack []uintptr) (names []string) {
	frames := runtime.CallersFrames(stack)
	for {
		frame, more := frames.Next()
		names = append(names, frame.Function)
		if !more {
			return names
		}
	}
}

func anyIn(functions []string, prefix string) bool {
	for _, f := range functions {
		if strings.HasPrefix(f, prefix) {
			return true
		}
	}
	return false
}
