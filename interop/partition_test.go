package interop

import "testing"

func TestPutPutDeleteAgainstAConcurrentPut(t *testing.T) {
	for name, concurrent := range map[string]string{"smaller": "a", "greater": "z"} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, deleter, putter *peer) {
				apart(deleter, putter, func() { putPutDelete(deleter); putter.put("/k", concurrent) })
				healed(t, pairs{"/k": concurrent}, deleter, putter)
			})
		})
	}
}

func TestPutPutDeleteAgainstAConcurrentOverwrite(t *testing.T) {
	bothWays(t, func(t *testing.T, deleter, putter *peer) {
		deleter.put("/k", "before")
		agree(t, pairs{"/k": "before"}, deleter, putter)
		apart(deleter, putter, func() { putPutDelete(deleter); putter.put("/k", "concurrent") })
		healed(t, pairs{"/k": "concurrent"}, deleter, putter)
	})
}

func TestPutPutDeletePutAgainstAConcurrentPut(t *testing.T) {
	bothWays(t, func(t *testing.T, deleter, putter *peer) {
		apart(deleter, putter, func() {
			putPutDelete(deleter)
			deleter.put("/k", "again")
			putter.put("/k", "zzz, but of lower priority")
		})
		healed(t, pairs{"/k": "again"}, deleter, putter)
	})
}

func putPutDelete(p *peer) {
	p.t.Helper()
	p.put("/k", "m1")
	p.put("/k", "m2")
	p.delete("/k")
}

func TestDeleteAgainstAConcurrentDelete(t *testing.T) {
	bothWays(t, func(t *testing.T, a, b *peer) {
		a.put("/k", "1")
		agree(t, pairs{"/k": "1"}, a, b)
		apart(a, b, func() { a.delete("/k"); b.put("/k", "2"); b.delete("/k") })
		healed(t, pairs{}, a, b)
	})
}

func TestConcurrentPutsAgreeOnTheGreaterValue(t *testing.T) {
	bothWays(t, func(t *testing.T, a, b *peer) {
		apart(a, b, func() { a.put("/k", "aaa"); b.put("/k", "b") })
		healed(t, pairs{"/k": "b"}, a, b)
	})
}

func TestConcurrentPutsAgreeOnTheHigherBranch(t *testing.T) {
	bothWays(t, func(t *testing.T, a, b *peer) {
		apart(a, b, func() { a.put("/k", "z"); a.put("/k", "a"); b.put("/k", "b") })
		healed(t, pairs{"/k": "a"}, a, b)
	})
}

func TestDeletingBothConcurrentVersionsUncoversNone(t *testing.T) {
	bothWays(t, func(t *testing.T, a, b *peer) {
		apart(a, b, func() { a.put("/k", "a"); b.put("/k", "b") })
		healed(t, pairs{"/k": "b"}, a, b)
		a.delete("/k")
		agree(t, pairs{}, a, b)
	})
}

// healed checks that both sides end with the same pairs, and that each can then write on
// top of what it got from the other.
func healed(t *testing.T, want pairs, a, b *peer) {
	t.Helper()
	agree(t, want, a, b)
	settled(t, a, b)
	a.put("/after/a", "1")
	b.put("/after/b", "1")
	agree(t, want.and(pairs{"/after/a": "1", "/after/b": "1"}), a, b)
	settled(t, a, b)
	a.delete("/after/b")
	b.delete("/after/a")
	agree(t, want, a, b)
}
