package interop

import (
	"fmt"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func TestThousandKeysFromBothSidesAtOnce(t *testing.T) {
	a, b := start(t, ours), start(t, old)
	a.connect(b)
	fromA, fromB := numbered("/ours", 500), numbered("/old", 500)
	writtenA, writtenB := putAll(a, fromA), putAll(b, fromB)
	if err := <-writtenA; err != nil {
		t.Fatal(err)
	}
	if err := <-writtenB; err != nil {
		t.Fatal(err)
	}
	agree(t, fromA.and(fromB), a, b)
	settled(t, a, b)
}

// putAll puts one pair after the other, in the background.
func putAll(p *peer, all pairs) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := p.tell(wire.Request{Op: wire.PutMany, Pairs: all.list()})
		done <- err
	}()
	return done
}

func numbered(parent string, count int) pairs {
	all := make(pairs, count)
	for i := range count {
		all[fmt.Sprintf("%s/%03d", parent, i)] = fmt.Sprint("value ", i)
	}
	return all
}
