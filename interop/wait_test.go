package interop

import (
	"testing"
	"time"
)

// agreeWithin is how long replicas may take to agree. They need a second or so; the
// rest is for slow machines.
const agreeWithin = time.Minute

// eventually asks for complaints until there are none.
func eventually(t *testing.T, complaints func() string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(agreeWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = complaints(); last == "" {
			return
		}
	}
	t.Fatalf("after %v still: %s", agreeWithin, last)
}

// agree waits until all peers hold exactly these pairs.
func agree(t *testing.T, want pairs, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		eventually(t, func() string {
			if diff := differences(p.pairs(), want); diff != "" {
				return "on the " + p.kind.name + " peer:\n" + diff
			}
			return ""
		})
	}
}

// holds checks that a peer holds exactly these pairs now.
func holds(t *testing.T, want pairs, p *peer) {
	t.Helper()
	if diff := differences(p.pairs(), want); diff != "" {
		t.Fatalf("on the %s peer:\n%s", p.kind.name, diff)
	}
}
