//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// allocated is what a file takes on disk. It may have more bytes than that:
// Badger sets them aside.
func allocated(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Blocks) * 512
	}
	return uint64(info.Size())
}
