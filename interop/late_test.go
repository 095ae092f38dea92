package interop

import (
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// A newcomer has only the last heads to go by, and here only a peer of the other kind
// to ask.
func TestALateJoinerGetsEverything(t *testing.T) {
	bothWays(t, func(t *testing.T, host, guest *peer) {
		want := longHistory(t, host, guest)
		guest.close()
		late := start(t, guest.kind)
		late.connect(host)
		agree(t, want, late)
		late.put("/late", "1")
		agree(t, want.and(pairs{"/late": "1"}), late, host)
	})
}

func TestAReturningPeerGetsWhatItMissed(t *testing.T) {
	bothWays(t, func(t *testing.T, host, guest *peer) {
		want := longHistory(t, host, guest)
		guest.close()
		missed := numbered("/missed", 100)
		host.ask(wire.Request{Op: wire.PutMany, Pairs: missed.list()})
		host.delete("/host/000")
		delete(want, "/host/000")
		guest = reopen(t, guest.kind, guest.dir)
		holds(t, want.and(pairs{"/host/000": "value 0"}), guest)
		guest.connect(host)
		agree(t, want.and(missed), host, guest)
	})
}

// longHistory makes some hundred blocks of both peers, with branches, overwrites and
// deletes among them.
func longHistory(t *testing.T, host, guest *peer) pairs {
	t.Helper()
	fromHost, fromGuest := numbered("/host", 100), numbered("/guest", 100)
	apart(host, guest, func() {
		host.ask(wire.Request{Op: wire.PutMany, Pairs: fromHost.list()})
		guest.ask(wire.Request{Op: wire.PutMany, Pairs: fromGuest.list()})
	})
	want := fromHost.and(fromGuest)
	agree(t, want, host, guest)
	settled(t, host, guest)
	overwriteSome(host, guest, want)
	agree(t, want, host, guest)
	settled(t, host, guest)
	return want
}

// overwriteSome has each peer change what the other wrote.
func overwriteSome(host, guest *peer, all pairs) {
	host.t.Helper()
	host.put("/guest/001", "from host")
	guest.put("/host/001", "from guest")
	host.delete("/guest/002")
	guest.delete("/host/002")
	all["/guest/001"], all["/host/001"] = "from host", "from guest"
	delete(all, "/guest/002")
	delete(all, "/host/002")
}
