package interop

import (
	"fmt"
	"testing"
)

// bothWays runs a test on two connected peers, once with each kind in each part.
func bothWays(t *testing.T, test func(t *testing.T, a, b *peer)) {
	for _, pair := range [][2]kind{{ours, old}, {old, ours}} {
		t.Run(pair[0].name+" to "+pair[1].name, func(t *testing.T) {
			a, b := start(t, pair[0]), start(t, pair[1])
			a.connect(b)
			test(t, a, b)
		})
	}
}

// apart cuts the two connected peers off from each other, lets something happen, and
// heals the partition.
func apart(a, b *peer, happens func()) {
	a.t.Helper()
	a.isolate()
	b.isolate()
	happens()
	a.rejoin()
	b.rejoin()
	a.connect(b)
}

// settled waits until the peers have merged the same blocks and have as many heads: what
// they show is then the outcome, not something on the way to it. The old module shows
// a new head before it has merged the history below.
func settled(t *testing.T, a, b *peer) {
	t.Helper()
	eventually(t, func() string {
		if inA, inB := a.stats(), b.stats(); inA.Heads != inB.Heads || inA.MaxHeight != inB.MaxHeight {
			return fmt.Sprintf("the peers differ: %+v and %+v", inA, inB)
		}
		return differences(a.merged(), b.merged())
	})
}
