package crash

import (
	"math/bits"
	"testing"
	"time"
)

// onEachStore runs a test on every kind of store.
func onEachStore(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range storeKinds {
		t.Run(kind, func(t *testing.T) { t.Parallel(); test(t, kind) })
	}
}

// A replica that is killed while it writes has kept all that it acknowledged,
// and no half of a batch, and agrees with a peer that was never killed.
func TestKilledWhileWriting(t *testing.T) {
	onEachStore(t, func(t *testing.T, kind string) {
		tr := newTrial(t, kind, replicaOptions{NumWorkers: 5, MaxBatchDeltaSize: 1 << 20})
		for !tr.done() {
			if tr.rand.IntN(5) == 0 {
				tr.dieOpening()
			} else {
				tr.dieWriting()
			}
		}
		tr.finish()
	})
}

func (tr *trial) dieWriting() {
	tr.t.Helper()
	tr.config.Options.InlineBlockSize = []int{-1, 16 << 10}[tr.rand.IntN(2)]
	p := tr.start()
	tr.awaitReady(p)
	if tr.rand.IntN(10) > 0 {
		tr.converge(p)
	}
	defer tr.load(p, load{Writers: 4})()
	tr.die(p, acked, 50)
}

// Batches that are too large for one commit of the store are whole, too.
func TestKilledWhileWritingHugeBatches(t *testing.T) {
	onEachStore(t, func(t *testing.T, kind string) {
		tr := newTrial(t, kind, replicaOptions{NumWorkers: 5, InlineBlockSize: -1, MaxBatchDeltaSize: 16 << 20})
		tr.limit = *kills / 3
		for !tr.done() {
			if tr.rand.IntN(3) == 0 {
				tr.dieOpening()
			} else {
				tr.dieWritingHuge()
			}
		}
		tr.finish()
	})
}

func (tr *trial) dieWritingHuge() {
	tr.t.Helper()
	p := tr.start()
	tr.awaitReady(p)
	if tr.rand.IntN(4) == 0 {
		tr.converge(p)
	}
	firstBegun := p.nth(1, begun)
	defer tr.load(p, load{Writers: 1, Huge: true})()
	p.await(firstBegun, "a batch")
	tr.pause(time.Second)
	tr.kill(p)
}

// A replica that is killed while it catches up with a long history goes on where
// it was.
func TestKilledWhileMerging(t *testing.T) {
	onEachStore(t, func(t *testing.T, kind string) {
		tr := newTrial(t, kind, replicaOptions{NumWorkers: 2, InlineBlockSize: -1, MaxBatchDeltaSize: 1 << 20})
		tr.peer.link.latency = time.Millisecond
		for !tr.done() {
			tr.peer.burst(tr.rand.Uint64(), 500+tr.rand.IntN(1000))
			for caughtUp := false; !caughtUp && !tr.done(); {
				if tr.rand.IntN(5) == 0 {
					tr.dieOpening()
				} else {
					caughtUp = tr.dieMerging()
				}
			}
		}
		tr.finish()
	})
}

// dieMerging kills the child once, in the middle of catching up or, which it
// tells, when it has done so.
func (tr *trial) dieMerging() (caughtUp bool) {
	tr.t.Helper()
	p := tr.start()
	tr.awaitReady(p)
	switch tr.rand.IntN(5) {
	case 0:
		tr.converge(p)
		p.inspect()
		tr.kill(p)
		return true
	case 1, 2:
		defer tr.load(p, load{Writers: 4})()
	}
	tr.die(p, want, 300)
	return false
}

// finish checks the replica as a whole, and that it went on after each kill, not
// over its history again.
func (tr *trial) finish() {
	tr.t.Helper()
	p := tr.start()
	tr.awaitReady(p)
	tr.converge(p)
	tr.kill(p)

	p = tr.start()
	tr.awaitReady(p)
	tr.converge(p)
	p.awaitQuiet()
	opening := p.reads.total()
	p.inspect()
	p.close()
	tr.reads.end(p.reads)
	tr.checkReads(opening, tr.peer.blockCount(), bits.Len64(stateOf(tr.peer.MerkleCRDT).Height))
}

// checkReads checks how many blocks were read.
//
// A block that is read again before it is merged was in flight when the child
// was killed: being fetched, with the merger, or in the commit that it was
// working on.
//
// A block that is read after it was merged is one of those by which a replica
// finds the targets of its next skip links, two for each bit of the height and
// each head; more where links are missing, because a kill came between; and a
// few whose values a tombstone uncovers.
func (tr *trial) checkReads(opening, blocks, bits int) {
	tr.t.Helper()
	tr.t.Logf("%s; there are %d blocks; opened with nothing missing it read %d", tr, blocks, opening)
	const perWorker, group = 32 + 32, 256
	if most := tr.reads.runs * (tr.config.Options.NumWorkers*perWorker + group); tr.reads.again > most {
		tr.t.Errorf("%d blocks were read again before they were merged, at most %d can have been in flight", tr.reads.again, most)
	}
	if most := tr.reads.runs * 8 * bits; tr.reads.merged > most {
		tr.t.Errorf("%d blocks were read that had been merged, want %d at most", tr.reads.merged, most)
	}
	if most := 4*bits + 8; opening > most {
		tr.t.Errorf("opened with nothing missing it read %d blocks of %d, want %d at most", opening, blocks, most)
	}
}
