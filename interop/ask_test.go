package interop

import "github.com/ipfs/go-ds-crdt/interop/wire"

func (p *peer) put(key, value string) {
	p.t.Helper()
	p.ask(wire.Request{Op: wire.Put, Key: key, Value: []byte(value)})
}

func (p *peer) delete(key string) {
	p.t.Helper()
	p.ask(wire.Request{Op: wire.Delete, Key: key})
}

func (p *peer) get(key string) (value string, found bool) {
	p.t.Helper()
	resp := p.ask(wire.Request{Op: wire.Get, Key: key})
	return string(resp.Value), resp.Found
}

// pairs is everything the replica shows.
func (p *peer) pairs() pairs {
	p.t.Helper()
	return toPairs(p.ask(wire.Request{Op: wire.List}).Pairs)
}

// rows is everything the replica keeps in its store, as the old module's format has it.
func (p *peer) rows() pairs {
	p.t.Helper()
	return toPairs(p.ask(wire.Request{Op: wire.Rows}).Pairs)
}

// merged has the marks of all blocks that the replica has merged for keys.
func (p *peer) merged() pairs {
	p.t.Helper()
	return toPairs(p.ask(wire.Request{Op: wire.Merged}).Pairs)
}

func (p *peer) connect(to *peer) {
	p.t.Helper()
	p.ask(wire.Request{Op: wire.Connect, Addr: to.addr})
}

// isolate cuts p off from everyone; rejoin lets it be connected again.
func (p *peer) isolate() { p.t.Helper(); p.ask(wire.Request{Op: wire.Isolate}) }
func (p *peer) rejoin()  { p.t.Helper(); p.ask(wire.Request{Op: wire.Rejoin}) }

// compact makes a checkpoint, drops what it covers, and gives how many blocks that were.
func (p *peer) compact() int {
	p.t.Helper()
	p.ask(wire.Request{Op: wire.Checkpoint})
	return p.ask(wire.Request{Op: wire.Compact}).Dropped
}

func (p *peer) stats() wire.Response { p.t.Helper(); return p.ask(wire.Request{Op: wire.Stats}) }
