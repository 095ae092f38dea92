package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// procUsage is what the system says that a process takes. All is 0 where there is no
// /proc.
type procUsage struct {
	rss        uint64 // bytes
	anon       uint64 // of it, what is not a mapped file, such as Badger's tables
	handles    int    // open files but for those of the store
	storeFiles int    // open files of the store, each as often as it is open
}

func lookAt(pid int, store string) (u procUsage) {
	u.rss, u.anon = resident(pid)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return u
	}
	for _, e := range entries {
		if to, _ := os.Readlink(filepath.Join(dir, e.Name())); strings.HasPrefix(to, store+"/") {
			u.storeFiles++
		} else {
			u.handles++
		}
	}
	return u
}

// resident reads two lines of Linux's status file: "VmRSS:   1234 kB".
func resident(pid int) (rss, anon uint64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
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

// filesIn counts the files of a directory.
func filesIn(dir string) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return len(entries)
}
