package main

import (
	"runtime"
	"slices"
	"syscall"
	"time"
)

// timed measures f. What was thrown away before is collected first, so that it is not
// on f's bill.
func timed(f func() error) (time.Duration, error) {
	runtime.GC()
	start := time.Now()
	err := f()
	return time.Since(start), err
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails only for another whose
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// medianOf is the median of how long several calls of f take. The calls get their
// number.
func medianOf(times int, f func(i int) (time.Duration, error)) (time.Duration, error) {
	took := make([]time.Duration, times)
	for i := range took {
		var err error
		if took[i], err = f(i); err != nil {
			return 0, err
		}
	}
	return quantile(took, 0.5), nil
}

// quantile is the value that a fraction q of all stays below. It sorts them.
func quantile(took []time.Duration, q float64) time.Duration {
	slices.Sort(took)
	return took[min(int(q*float64(len(took))), len(took)-1)]
}
