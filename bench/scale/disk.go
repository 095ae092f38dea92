package main

import (
	"io/fs"
	"path/filepath"
)

// diskUsage is what the files below a directory take on disk. A store may
// remove some of them meanwhile: they count as nothing.
func diskUsage(dir string) (bytes uint64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			bytes += allocated(info)
		}
		return nil
	})
	return bytes
}
