//go:build invariants || race

package crdt

import "fmt"

// invariants turns on the checks that the code makes of itself as it goes. They
// cost too much but for tests: with the tag "invariants", and under the race
// detector. Keep them in an `if invariants`, which the compiler leaves out.
const invariants = true

// mustHold panics unless a condition that the code relies on holds.
func mustHold(ok bool, format string, args ...any) {
	if !ok {
		panic("crdt: broken invariant: " + fmt.Sprintf(format, args...))
	}
}
