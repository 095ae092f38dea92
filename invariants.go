package crdt

import "context"

// check panics unless a commit that is about to be written holds together, as far as
// can be seen without reading the store. See invariants.
func (c *commit) check() {
	for _, k := range c.set.order {
		k.check()
	}
	c.dag.check()
}

func (k *keyChange) check() {
	mustHold((k.win != nil) == (k.winner == winnerKnown || k.winner == winnerUnresolved), "the winner of %s is %v in state %d", k.key, k.win, k.winner)
	mustHold(k.winner != winnerUndecided, "the winner of %s has not been chosen", k.key)
	for id, l := range k.losers {
		if l == nil {
			continue
		}
		mustHold(l.id == id && k.win != nil && !k.wonBy(id), "block %s lost %s to nobody", id.Cid(), k.key)
		mustHold(l.unranked || l.priority <= k.win.priority, "a loser of %s has a greater priority than the winner", k.key)
		mustHold(!l.hasValue || sameValue(&l.version, k.win) || k.win.beats(&l.version), "the winner of %s does not beat a loser", k.key)
		mustHold(!k.low || !l.mayHave(maxPriority), "a loser of %s is not low", k.key)
	}
}

func (c *dagChange) check() {
	for id, tip := range c.pendingHeads.now {
		if m := c.marks[id]; m != nil {
			mustHold(m.state == pending && !m.neverHead && m.tip == tip, "pending head %s is %v", id.Cid(), m)
		}
	}
	for id := range c.heads.now {
		if m := c.marks[id]; m != nil && m.changed {
			mustHold(m.state == complete, "head %s is %v", id.Cid(), m)
		}
	}
	for id, m := range c.marks {
		mustHold(!m.changed || m.state != pending || m.missing > 0, "block %s waits for nothing", id.Cid())
		if w, changed := c.queue[id]; changed {
			mustHold(w == nil || m.state != pending || c.purge.hides(id), "block %s is here, and is queued as missing", id.Cid())
		}
	}
	for id, w := range c.waits {
		queued, changed := c.queue[id]
		m := c.marks[id]
		if m == nil || w.empty() || c.purge.hides(id) {
			continue
		}
		mustHold(m.state == pending || !changed || queued != nil, "others wait for block %s, which is %d and not queued", id.Cid(), m.state)
	}
}

// checkAhead panics unless what was read ahead is what the store has now.
func (c *commit) checkAhead() {
	for key, k := range c.set.ahead {
		now, err := c.committer.store.loadKey(context.Background(), key)
		if err != nil { // the store fails, or what it has is no record
			continue
		}
		same := (k.before == nil) == (now.before == nil) && (k.before == nil || k.before.same(now.before))
		mustHold(same, "the record of %s that was read ahead is out of date", key)
	}
}
