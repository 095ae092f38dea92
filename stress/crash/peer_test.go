package crash

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/blockstore"
	badger "github.com/ipfs/go-ds-badger4"
	crdt "github.com/ipfs/go-ds-crdt"
	ipld "github.com/ipfs/go-ipld-format"
)

// A peer is the replica that is never killed.
type peer struct {
	*crdt.MerkleCRDT
	t      *testing.T
	link   *link
	ledger *ledger
	lastID atomic.Uint64
}

// peerIDs are the ids of the peer's operations. Those of the child's are below.
const peerIDs = 1 << 60

func newPeer(t *testing.T, led *ledger, opts replicaOptions) *peer {
	t.Helper()
	store, err := badger.NewDatastore(t.TempDir(), nil)
	must(t, err)
	bs := blockstore.NewBlockstore(store)
	p := &peer{t: t, link: newLink(bs), ledger: led}
	p.lastID.Store(peerIDs)
	p.MerkleCRDT, err = crdt.NewMerkleCRDT(store, namespace, newDAGService(bs, p.link), p.link, opts.options(), nil)
	must(t, err)
	t.Cleanup(func() {
		must(t, p.Close())
		must(t, store.Close())
	})
	return p
}

func (p *peer) begin(id uint64, op operation) { p.ledger.begin(byPeer, id, op) }
func (p *peer) end(id uint64)                 { p.ledger.end(id) }

// start writes until the returned function is called.
func (p *peer) start(l load) (stop func()) {
	var stopped atomic.Bool
	var writers sync.WaitGroup
	for _, w := range l.writers(p, p, func() uint64 { return p.lastID.Add(1) }) {
		writers.Go(func() {
			if err := w.run(context.Background(), stopped.Load); err != nil {
				p.t.Error(err)
			}
		})
	}
	return func() { stopped.Store(true); writers.Wait() }
}

// burst makes a history of so many blocks more.
func (p *peer) burst(seed uint64, blocks int) {
	p.t.Helper()
	l := load{Name: "burst", Seed: seed, Writers: 1}
	w := l.writers(p, p, func() uint64 { return p.lastID.Add(1) })[0]
	for range blocks {
		must(p.t, w.writeOne(context.Background()))
	}
}

// blockCount returns how many blocks there are below the heads.
func (p *peer) blockCount() int {
	p.t.Helper()
	heads, _, err := p.Heads().List(context.Background())
	must(p.t, err)
	n := 0
	must(p.t, p.Traverse(context.Background(), cidsOf(heads), func(ipld.Node) error { n++; return nil }))
	return n
}

// converge waits until the child has the same heads as the peer, and then
// compares their pairs, once: they must not differ any more.
func (p *peer) converge(child *process) map[string]string {
	p.t.Helper()
	p.awaitSameHeads(child)
	mine, err := pairsOf(p.MerkleCRDT)
	must(p.t, err)
	if diff := difference(mine, child.pairs()); diff != "" {
		p.t.Fatalf("peer and child have the same heads, and %s", diff)
	}
	return mine
}

func (p *peer) awaitSameHeads(child *process) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		mine, other := stateOf(p.MerkleCRDT), child.state()
		if slices.Equal(mine.Heads, other.Heads) && mine.Jobs+other.Jobs == 0 && !other.Dirty {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("after %v peer and child have not converged:\n%+v\n%+v", patience, mine, other)
		}
	}
}

// difference names the first key that two replicas differ in, or none.
func difference(peer, child map[string]string) string {
	for k, v := range peer {
		if child[k] != v {
			return fmt.Sprintf("%s is %q on the peer, %q on the child", k, v, child[k])
		}
	}
	for k, v := range child {
		if peer[k] == "" {
			return fmt.Sprintf("%s is %q on the child, and not on the peer", k, v)
		}
	}
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
