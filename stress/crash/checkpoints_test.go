package crash

import (
	"bytes"
	"math/bits"
	"testing"
	"time"
)

// A replica that is killed while it makes checkpoints, takes those of others, and drops
// what they cover, loses nothing by that, and goes on where it was.
func TestKilledAmidCheckpoints(t *testing.T) {
	onEachStore(t, func(t *testing.T, kind string) {
		tr := newTrial(t, kind, replicaOptions{NumWorkers: 5, MaxBatchDeltaSize: 1 << 20, CheckpointEvery: 50, SupersedingPuts: true})
		tr.limit = *kills / 2
		tr.ledger.compacts = true
		tr.peer.burst(tr.rand.Uint64(), 20) // or there may be no heads
		for !tr.done() {
			tr.config.Options.SupersedingPuts = tr.rand.IntN(2) == 0
			tr.config.Options.KeepHistory = []time.Duration{0, 50 * time.Millisecond}[tr.rand.IntN(2)]
			switch tr.rand.IntN(6) {
			case 0:
				tr.dieOpening()
			case 1, 2:
				tr.dieCompacting()
			default:
				tr.dieTaking()
			}
		}
		tr.finishCompacted()
	})
}

// dieCompacting kills the child while it makes checkpoints and drops what they cover.
func (tr *trial) dieCompacting() {
	tr.t.Helper()
	p := tr.start()
	tr.awaitReady(p)
	if tr.rand.IntN(2) == 0 {
		tr.compareRoots(p)
		p.inspect()
		tr.kill(p)
		return
	}
	defer tr.load(p, load{Writers: 2, Checkpoints: true})()
	tr.pause(time.Second)
	tr.kill(p)
}

// dieTaking kills the child a few times after the peer has dropped what the child has not
// got yet: it has to take the checkpoint.
func (tr *trial) dieTaking() {
	tr.t.Helper()
	tr.peer.burst(tr.rand.Uint64(), 400)
	must(tr.t, compact(tr.peer.MerkleCRDT))
	for n := 1 + tr.rand.IntN(4); n > 0 && !tr.done(); n-- {
		p := tr.start()
		tr.awaitReady(p)
		if tr.rand.IntN(2) == 0 {
			defer tr.load(p, load{Writers: 1, Checkpoints: tr.rand.IntN(2) == 0})()
		}
		tr.die(p, read, 100)
	}
}

// compareRoots waits until what the checkpoints of peer and child say is the same: the
// next one may still be on its way, with what was tidied for it. Nobody writes.
func (tr *trial) compareRoots(p *process) {
	tr.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		tr.converge(p)
		mine, err := rootOf(tr.peer.MerkleCRDT)
		must(tr.t, err)
		other := p.ask(message{Kind: tellRoot}).Data
		if bytes.Equal(mine, other) {
			return
		}
		if time.Now().After(deadline) {
			tr.t.Fatalf("peer and child have the same heads, and the state roots %x and %x", mine, other)
		}
	}
}

// finishCompacted checks the replica as a whole.
func (tr *trial) finishCompacted() {
	tr.t.Helper()
	p := tr.start()
	tr.awaitReady(p)
	tr.compareRoots(p)
	p.inspect()
	p.close()
	tr.reads.end(p.reads)
	tr.checkFolds()
}

// checkFolds checks how many merged blocks were read. A checkpoint reads what has come
// since the last one, and a drop what it drops: once each, and once more for each of them
// that was killed.
func (tr *trial) checkFolds() {
	tr.t.Helper()
	tr.t.Log(tr)
	blocks := tr.ledger.acknowledged() // at least: a large batch makes more
	bits := bits.Len64(stateOf(tr.peer.MerkleCRDT).Height)
	if most := 3*blocks + tr.reads.runs*8*bits; tr.reads.merged > most {
		tr.t.Errorf("%d blocks were read that had been merged, of some %d, want %d at most", tr.reads.merged, blocks, most)
	}
}
