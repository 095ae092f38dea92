//go:build !linux

package main

import (
	"errors"
	"os"
	"syscall"
)

var endSignals = []os.Signal{os.Interrupt}

// ofChild has nothing to add here: a replica ends when its stdin does.
func ofChild() *syscall.SysProcAttr { return nil }

const canFreeze = false

func freeze(*os.Process) error { return errors.ErrUnsupported }
func thaw(*os.Process) error   { return errors.ErrUnsupported }
