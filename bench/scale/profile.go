package main

import (
	"errors"
	"os"
	"runtime"
	"runtime/pprof"
)

// profile begins the profiles of a phase, if there are to be any, and returns
// what ends them.
func (b *bench) profile(phase string) (end func() error, err error) {
	stopCPU, err := startCPUProfile(b.cpuProfile, phase)
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(stopCPU(), writeHeapProfile(b.memProfile, phase)) }, nil
}

func startCPUProfile(prefix, phase string) (stop func() error, err error) {
	if prefix == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(prefix + "." + phase)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// writeHeapProfile tells both what is in use and what has been allocated so far.
func writeHeapProfile(prefix, phase string) error {
	if prefix == "" {
		return nil
	}
	f, err := os.Create(prefix + "." + phase)
	if err != nil {
		return err
	}
	runtime.GC() // the profile is that of the last collection
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
