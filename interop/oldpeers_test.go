package interop

import (
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// oldPeers gives two connected old peers that share a history with a bit of everything, and the
// pairs that both hold.
func oldPeers(t *testing.T) (store, partner *peer, want pairs) {
	t.Helper()
	store, partner = start(t, old), start(t, old)
	store.connect(partner)
	writeSimply(store)
	agree(t, simply, store, partner)
	settled(t, store, partner)
	apart(store, partner, func() { writeConcurrently(store, partner) })
	agree(t, simply.and(concurrently), store, partner)
	settled(t, store, partner)
	store.close()
	store = reopen(t, old, store.dir)
	store.connect(partner)
	store.put("/reopened", "1")
	want = simply.and(concurrently).and(pairs{"/reopened": "1"})
	agree(t, want, store, partner)
	settled(t, store, partner)
	return store, partner, want
}

// simply is what writeSimply leaves.
var simply = nested.and(pairs{"/over": "0", "/back": "2", "/empty": "", "/x/y": "1"})

func writeSimply(p *peer) {
	p.t.Helper()
	for _, value := range []string{"z", "y", "x", "0"} {
		p.put("/over", value)
	}
	p.put("/gone", "1")
	p.put("/gone", "2")
	p.delete("/gone")
	p.put("/back", "1")
	p.delete("/back")
	p.put("/back", "2")
	p.put("/empty", "")
	p.ask(wire.Request{Op: wire.Batch, Pairs: nested.and(pairs{"/x/y": "1"}).list()})
}

// concurrently is what writeConcurrently adds. The branches start at the same height.
var concurrently = pairs{"/both": "winner", "/survivor": "partner's"}

func writeConcurrently(p, q *peer) {
	p.t.Helper()
	p.put("/both", "loser")
	q.put("/both", "winner")
	p.put("/survivor", "1")
	p.put("/survivor", "2")
	p.delete("/survivor")
	q.put("/survivor", "partner's")
}
