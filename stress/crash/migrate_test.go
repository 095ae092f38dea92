package crash

import (
	"fmt"
	"testing"
	"time"
)

// An oldKind is a kind of old store.
type oldKind struct {
	format, keys int
	closed       bool // the last run was
}

func (k oldKind) String() string {
	return fmt.Sprintf("format %d, %d keys, closed %v", k.format, k.keys, k.closed)
}

var oldKinds = []oldKind{
	{1, 2_000, true}, {0, 2_000, true}, {1, 4_000, false}, {0, 4_000, false}, {1, 4_000, true},
	{1, 2_000, true}, {0, 2_000, true}, {1, 20_000, true}, {0, 4_000, false}, {0, 20_000, true},
}

// A store of an old format that is killed while it is migrated, again and again,
// shows the right pairs when it opens at last, and replicates them.
func TestKilledWhileMigrating(t *testing.T) {
	onEachStore(t, func(t *testing.T, kind string) {
		sum := migrations{begun: time.Now()}
		for sum.kills < *kills || sum.done < *kills/3 {
			k := oldKinds[sum.done%len(oldKinds)]
			if !t.Run(fmt.Sprint(sum.done), func(t *testing.T) { sum.add(migrateAndDie(t, kind, k, uint64(sum.done))) }) {
				return
			}
			t.Logf("%v (the last: %v)", &sum, k)
		}
	})
}

// migrations sums up.
type migrations struct {
	begun             time.Time
	done, kills, most int
}

func (m *migrations) add(kills int) {
	m.done++
	m.kills += kills
	m.most = max(m.most, kills)
}

func (m *migrations) String() string {
	return fmt.Sprintf("%v: %d migrations with %d kills, at most %d in one", time.Since(m.begun).Round(100*time.Millisecond), m.done, m.kills, m.most)
}

// migrateAndDie migrates one store, and returns how often that was cut off.
func migrateAndDie(t *testing.T, kind string, k oldKind, seed uint64) (kills int) {
	o := newOldStore(k.format, k.keys, seed)
	if !k.closed {
		o.rows["/bs"] = nil
	}
	tr := newTrial(t, kind, replicaOptions{NumWorkers: 5, InlineBlockSize: -1, MaxBatchDeltaSize: 1 << 20})
	o.write(t, kind, tr.config.Dir)
	tr.ledger.settle(o.pairs)
	// It doubles: a slow machine may need long for one step, and only whole ones count.
	span := 30*time.Millisecond + time.Duration(k.keys)*20*time.Microsecond
	p := tr.start()
	for !tr.isReadyBefore(p, span<<(tr.kills/8)) {
		tr.kill(p)
		p = tr.start()
	}
	kills = tr.kills
	tr.awaitReady(p)
	tr.converge(p)
	tr.writeToOld(p, o)
	tr.converge(p)
	p.inspect()
	tr.kill(p)
	return kills
}

// isReadyBefore waits a random moment of New, and tells whether it has returned.
func (tr *trial) isReadyBefore(p *process, most time.Duration) bool {
	tr.t.Helper()
	p.await(p.opened, "the store to open")
	select {
	case <-p.ready:
		return true
	case <-time.After(time.Duration(tr.rand.Int64N(int64(most)))):
		return false
	}
}

// writeToOld deletes and overwrites keys with several live versions: the
// migration left it open which of these wins.
func (tr *trial) writeToOld(p *process, o *oldStore) {
	tr.t.Helper()
	for i, k := range o.merged[:50] {
		v := ""
		if i%2 == 0 {
			v = "new"
		}
		op := operation{Writes: map[string]string{k: v}}
		tr.ledger.begin(byChild, uint64(i), op)
		p.ask(message{Kind: apply, Op: op})
		tr.ledger.end(uint64(i))
	}
}
