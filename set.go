package crdt

import (
	"context"
	"fmt"
	"slices"

	"github.com/ipfs/go-ds-crdt/pb"
)

// A setChange is what one commit does to the set: an add-wins observed-removed
// set of versions (Merkle-CRDTs, section VI, arXiv 2004.00107) in which the
// merged blocks are the causal context, so that removed versions leave
// nothing behind (Bieniusa et al., "An optimized conflict-free replicated
// set", arXiv 1210.3368).
//
// It is an overlay: every touched record is loaded once, all deltas of the
// commit are applied in memory, and rows returns what to write. It never goes
// to the network. A setChange belongs to the goroutine that commits.
type setChange struct {
	store      *rowStore
	keys       map[string]*keyChange
	ahead      map[string]*keyChange  // read beforehand; keys has those that were touched
	order      []*keyChange           // in the order of first touch, for the hooks
	tombstones map[versionName]bool   // rows to put (true) or remove (false)
	fetched    map[versionName]*loser // values read from blocks beforehand
	purge      *purge                 // whose blocks count as not merged; may be nil

	claims map[blockID]map[string]claimNow // by the block they are about, and the key

	bound                            keyBound
	mayHaveTombstones, mayHaveClaims bool // rows of these may be in the store
	mayHaveEarly                     bool // and versions whose blocks are not merged
}

// A versionName names a version.
type versionName struct {
	key string
	id  blockID
}

func newSetChange(store *rowStore, mayHaveTombstones, mayHaveClaims bool) *setChange {
	return &setChange{
		store:             store,
		keys:              make(map[string]*keyChange),
		mayHaveTombstones: mayHaveTombstones,
		mayHaveClaims:     mayHaveClaims,
	}
}

// merge applies a delta that came in block id. merged reports whether a block
// has been merged.
func (c *setChange) merge(ctx context.Context, id blockID, d *deltaContent, merged func(context.Context, blockID) (bool, error)) error {
	if err := c.removeClaims(ctx, id); err != nil {
		return err
	}
	if err := c.removeAll(ctx, d.tombstones, merged); err != nil {
		return err
	}
	for _, e := range d.elements {
		v := version{id: id, priority: d.priority, value: e.GetValue()}
		if err := c.addVersion(ctx, e.GetKey(), v); err != nil {
			return err
		}
	}
	for _, e := range d.claims {
		if err := c.claim(ctx, id, e, merged); err != nil {
			return err
		}
	}
	return nil
}

// addVersion adds a version, unless its tombstone was here before it.
func (c *setChange) addVersion(ctx context.Context, key string, v version) error {
	dead, err := c.takeTombstone(ctx, versionName{key, v.id})
	if err != nil || dead {
		return err
	}
	k, err := c.load(ctx, key)
	if err != nil {
		return err
	}
	v.added = true
	k.add(v)
	return nil
}

// takeTombstone removes the tombstone of a version whose block is being
// merged, and reports whether there was one.
func (c *setChange) takeTombstone(ctx context.Context, n versionName) (bool, error) {
	found, err := c.hasTombstone(ctx, n)
	if found {
		c.setTombstone(n, false)
	}
	return found, err
}

// hasTombstone reports whether there is, or was before this commit, a tombstone of
// a version.
func (c *setChange) hasTombstone(ctx context.Context, n versionName) (bool, error) {
	if _, ok := c.tombstones[n]; ok {
		return true, nil // also when a delta has its key twice
	}
	if !c.mayHaveTombstones {
		return false, nil
	}
	return c.store.Has(ctx, c.store.keys.tombstone(n.key, n.id))
}

func (c *setChange) setTombstone(n versionName, put bool) {
	setIn(&c.tombstones, n, put)
}

func (c *setChange) removeAll(ctx context.Context, tombstones []*pb.Element, merged func(context.Context, blockID) (bool, error)) error {
	for _, t := range tombstones {
		// An id that names no block matches no version.
		if removed, ok := parseDsKey(t.GetId()); ok {
			if err := c.remove(ctx, t.GetKey(), removed, merged); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes a version. If its block has not been merged, it also leaves a tombstone.
func (c *setChange) remove(ctx context.Context, key string, id blockID, merged func(context.Context, blockID) (bool, error)) error {
	k, err := c.load(ctx, key)
	if err != nil {
		return err
	}
	known := k.wonBy(id) && !k.win.keepValue && !c.purge.hides(id)
	if !known {
		if known, err = merged(ctx, id); err != nil {
			return err
		}
	}
	if known {
		k.remove(id)
		return nil
	}
	c.setTombstone(versionName{key, id}, true)
	return c.removeEarly(ctx, k, id)
}

// load returns the state of a key in this commit.
func (c *setChange) load(ctx context.Context, key string) (*keyChange, error) {
	if k, ok := c.keys[key]; ok {
		return k, nil
	}
	k := c.ahead[key]
	if k == nil {
		var err error
		if k, err = c.store.loadUnless(ctx, c.bound, key); err != nil {
			return nil, err
		}
	}
	c.keys[key] = k
	c.order = append(c.order, k)
	return k, nil
}

// keysBy returns the keys of what is to be touched.
func keysBy[V any](all []V, key func(V) string) []string {
	keys := make([]string, len(all))
	for i, v := range all {
		keys[i] = key(v)
	}
	return keys
}

// loadKey reads the record of a key.
func (s *rowStore) loadKey(ctx context.Context, key string) (*keyChange, error) {
	k := newKeyChange(key)
	b, found, err := s.getRow(ctx, s.keys.record(key))
	if err == nil && found {
		k.before, err = decodeRecord(b)
	}
	if err != nil {
		return nil, fmt.Errorf("crdt: loading %s: %w", key, err)
	}
	if k.before != nil {
		k.win, k.winner = &k.before.version, winnerKnown
		if k.before.unresolved {
			k.winner = winnerUnresolved
		}
		k.mayHaveLosers, k.low = k.before.losers, k.before.low || !k.before.losers
	}
	return k, nil
}

// live returns the live versions of a key that have some priority at least, or may
// have: the losers, then the winner.
func (c *setChange) live(ctx context.Context, key string, least uint64) ([]blockID, error) {
	k, err := c.load(ctx, key)
	if err != nil {
		return nil, err
	}
	losers, err := c.losers(ctx, k, least)
	if err != nil {
		return nil, err
	}
	ids := make([]blockID, 0, len(losers)+1)
	for _, l := range losers {
		ids = append(ids, l.id)
	}
	if k.winner == winnerKnown && k.win.priority >= least {
		ids = append(ids, k.win.id)
	}
	if k.win != nil && len(ids) == 0 {
		return nil, fmt.Errorf("%w of %s: the versions that it stands for are not there", errBadRecord, key)
	}
	return ids, nil
}

// isLive reports whether a version of a key is live.
func (c *setChange) isLive(ctx context.Context, k *keyChange, id blockID) (bool, error) {
	if k.wonBy(id) {
		return true, nil
	}
	if l, changed := k.losers[id]; changed || !k.mayHaveLosers {
		return l != nil, nil
	}
	return c.store.Has(ctx, c.store.keys.loser(k.key, id))
}

// losers returns the losing versions of a key as they are in this commit, in
// the order of their ids: those that have some priority at least, or may have.
func (c *setChange) losers(ctx context.Context, k *keyChange, least uint64) ([]*loser, error) {
	var all []*loser
	if k.mayHaveLosers && !(k.lowStored() && least >= maxPriority) {
		for e, err := range c.store.rowsOf(ctx, c.store.keys.losersOf(k.key), 1, false) {
			if err != nil {
				return nil, err
			}
			_, id, ok := splitID(e.Key)
			if _, changed := k.losers[id]; changed || !ok {
				continue
			}
			l, err := decodeLoser(id, e.Value)
			if err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	for _, l := range k.losers {
		if l != nil {
			all = append(all, l)
		}
	}
	all = slices.DeleteFunc(all, func(l *loser) bool { return !l.mayHave(least) })
	slices.SortFunc(all, func(a, b *loser) int { return a.id.compare(b.id) })
	return all, nil
}

// electWinners chooses the winner of every key that lost its own. It returns missingValues
// for losers whose values stand in their blocks alone; once these are in fetched,
// it works.
func (c *setChange) electWinners(ctx context.Context) error {
	var missing missingValues
	for _, k := range c.order {
		if k.winner != winnerUndecided {
			continue
		}
		m, err := c.elect(ctx, k)
		if err != nil {
			return err
		}
		missing = append(missing, m...)
	}
	if len(missing) > 0 {
		return missing
	}
	return nil
}

// elect makes the best loser of a key its winner. If a new one has reached
// maxPriority, it does not look at those that have not: a Put that had to remove the
// winner must not cost more with each Put before it.
func (c *setChange) elect(ctx context.Context, k *keyChange) (missing []versionName, err error) {
	least := uint64(0)
	if k.reachesTop() {
		least = maxPriority
	}
	candidates, err := c.losers(ctx, k, least)
	if err != nil {
		return nil, err
	}
	candidates = slices.DeleteFunc(candidates, func(l *loser) bool { return !c.complete(k, l) })
	for _, l := range contenders(candidates) {
		if !l.hasValue && !l.isBeatenBy(candidates) {
			missing = append(missing, versionName{k.key, l.id})
		}
	}
	if len(missing) > 0 {
		return missing, nil
	}
	k.crownBest(candidates)
	if least == 0 && len(candidates) <= 1 {
		k.mayHaveLosers = false // once this commit has been made
	}
	return nil, nil
}

// complete fills in what was fetched for a loser. It returns false for a
// version that turned out to have no value in its block, and removes it.
func (c *setChange) complete(k *keyChange, l *loser) bool {
	f, ok := c.fetched[versionName{k.key, l.id}]
	if !ok || l.hasValue {
		return true
	}
	if f == nil {
		k.setLoser(l.id, nil)
		return false
	}
	l.priority, l.value, l.hasValue, l.unranked, l.beatenBy = f.priority, f.value, f.hasValue, false, f.beatenBy
	k.setLoser(l.id, l)
	return true
}

// isBeatenBy reports whether what a loser has lost to is among the candidates. Then
// it cannot win, and its value is not needed.
func (l *loser) isBeatenBy(candidates []*loser) bool {
	return l.beatenBy != nil && slices.ContainsFunc(candidates, func(o *loser) bool { return o.id == *l.beatenBy })
}

// contenders returns the losers whose values are needed to tell which one is
// best: those of unknown priority, or else those of the greatest.
func contenders(losers []*loser) []*loser {
	var top []*loser
	for _, l := range losers {
		switch {
		case len(top) == 0 || l.unranked == top[0].unranked && l.priority == top[0].priority:
			top = append(top, l)
		case !top[0].unranked && (l.unranked || l.priority > top[0].priority):
			top = append(top[:0:0], l)
		}
	}
	return top
}

// rows returns what the commit writes. Call electWinners first.
func (c *setChange) rows() []row {
	keys := c.store.keys
	rows := make([]row, 0, len(c.order)+4)
	for _, k := range c.order {
		rows = k.appendRows(rows, keys)
	}
	for n, put := range c.tombstones {
		rows = append(rows, row{key: keys.tombstone(n.key, n.id), value: []byte{}, remove: !put})
	}
	return c.appendClaimRows(rows)
}

// setsTombstone reports whether rows puts a tombstone, or removes one.
func (c *setChange) setsTombstone(put bool) bool {
	for _, p := range c.tombstones {
		if p == put {
			return true
		}
	}
	return false
}

// A keyChange is one key's state in a commit. Versions come and go in any order, each
// delta of the commit in its turn, and only then the winner is chosen anew where it
// has gone: choosing may take values that stand in blocks alone (see electWinners).
//
//	state        means                                     stored as
//	none         no version is live                        no record
//	known        win is the winner                         a record
//	unresolved   win has the value, but it is not known    a record that says so; all
//	             from which block                          versions are losers' rows
//	undecided    the winner was removed                    never: crownBest ends it
//
//	             one that wins  one that loses  the winner   another     crownBest
//	             is added       is added        is removed   is removed
//	none         known          -               -            none        -
//	known        known          known           undecided    known       -
//	unresolved   known          unresolved      undecided    undecided   -
//	undecided    undecided      undecided       -            undecided   known or none
//
// From known a version that wins makes a loser of the winner; from unresolved it does
// not, since that stands among the losers already, where it may be whichever is
// removed. Only a migration makes such records. In undecided all that is added joins
// the losers. These are an overlay on the rows in the store,
// which are not read before somebody has to choose among them.
type keyChange struct {
	key    string
	before *record // as stored; nil: none

	winner  winnerState
	win     *version // nil: none, or undecided
	removed bool     // the version in before was removed, not just beaten

	losers        map[blockID]*loser // changes to the losers; nil: removed
	mayHaveLosers bool               // rows of others may be in the store
	low           bool               // as in record, of all losers there are now
}

type winnerState byte

const (
	winnerNone winnerState = iota
	winnerKnown
	winnerUnresolved
	winnerUndecided
)

// newKeyChange is for a key that has no record.
func newKeyChange(key string) *keyChange { return &keyChange{key: key, low: true} }

func (k *keyChange) setLoser(id blockID, l *loser) {
	setIn(&k.losers, id, l)
	k.low = k.low && (l == nil || !l.mayHave(maxPriority))
}

// lowStored reports whether the losers in the store are all below maxPriority.
func (k *keyChange) lowStored() bool { return k.before != nil && k.before.low }

// reachesTop reports whether one of the commit is not.
func (k *keyChange) reachesTop() bool {
	for _, l := range k.losers {
		if l != nil && l.hasValue && l.priority >= maxPriority {
			return true
		}
	}
	return false
}

// removeLoser leaves no row of a loser, if there is one.
func (k *keyChange) removeLoser(id blockID) {
	if k.mayHaveLosers {
		k.setLoser(id, nil)
	} else {
		delete(k.losers, id)
	}
}

// wonBy reports whether the winner is known to be the version of block id.
func (k *keyChange) wonBy(id blockID) bool { return k.winner == winnerKnown && k.win.id == id }

// nextPriority is what a write must have to win over what the key has now.
func (k *keyChange) nextPriority() uint64 {
	if k.win == nil {
		return 1
	}
	return above(k.win.priority)
}

func (k *keyChange) lose(v version) {
	if l := k.losers[v.id]; l == nil || v.beats(&l.version) {
		k.setLoser(v.id, &loser{version: v, hasValue: true})
	}
}

func (k *keyChange) add(v version) {
	switch {
	case k.winner == winnerUndecided:
		k.lose(v)
	case k.win == nil || v.beats(k.win):
		if _, ok := k.losers[v.id]; ok { // from the same delta, or a claim that lost
			k.removeLoser(v.id)
		}
		k.crown(&v)
	case !k.wonBy(v.id):
		k.lose(v)
	}
}

// crown makes a version the winner, and that in whose place it comes a loser.
func (k *keyChange) crown(v *version) {
	if k.winner == winnerKnown && k.win.id != v.id {
		k.setLoser(k.win.id, &loser{version: *k.win, hasValue: true})
	}
	k.win, k.winner = v, winnerKnown
}

func (k *keyChange) remove(id blockID) {
	k.removeLoser(id)
	if k.before != nil && !k.before.unresolved && k.before.id == id {
		k.removed = true
	}
	if k.winner == winnerUnresolved || k.wonBy(id) {
		k.undecide()
	}
}

// undecide leaves it to crownBest who wins.
func (k *keyChange) undecide() { k.win, k.winner = nil, winnerUndecided }

// crownBest makes the best of the candidates the winner.
func (k *keyChange) crownBest(candidates []*loser) {
	k.winner = winnerNone
	var best *loser
	for _, l := range candidates {
		if best == nil || l.beats(&best.version) {
			best = l
		}
	}
	if best != nil {
		k.removeLoser(best.id) // or a lesser claim of the same version
		k.crown(&best.version)
	}
	k.low = !slices.ContainsFunc(candidates, func(l *loser) bool { return l != best && l.mayHave(maxPriority) })
	if k.before != nil && k.before.unresolved {
		k.removed = k.win == nil || !sameValue(k.win, &k.before.version)
	}
}

func (k *keyChange) appendRows(rows []row, keys *keyspace) []row {
	live := false
	for id, l := range k.losers {
		r := row{key: keys.loser(k.key, id), remove: l == nil}
		if l != nil {
			live = true
			r.value = l.encode()
		}
		rows = append(rows, r)
	}
	switch {
	case k.win != nil:
		r := &record{version: *k.win, losers: live || k.mayHaveLosers, unresolved: k.winner == winnerUnresolved}
		r.low = r.losers && k.low
		if k.before == nil || !k.before.same(r) {
			rows = append(rows, row{key: keys.record(k.key), value: r.encode()})
		}
	case k.before != nil:
		rows = append(rows, row{key: keys.record(k.key), remove: true})
	}
	return rows
}

// event returns what the hooks should be told about the key. One whose value was
// removed, and has a new one in the same commit, has never been gone.
func (k *keyChange) event() event {
	e := event{key: k.key}
	if k.before != nil && k.win != nil && k.stillWins(k.before) {
		return e // also when it was removed, and what replaced it is the same
	}
	e.deleted = k.before != nil && (k.win == nil || k.removed && !k.win.added)
	if k.win != nil {
		e.put, e.value = true, k.win.value
	}
	return e
}

// stillWins reports whether the winner is the one it was before.
func (k *keyChange) stillWins(before *record) bool {
	if before.unresolved {
		return k.winner == winnerUnresolved || sameValue(k.win, &before.version)
	}
	return k.wonBy(before.id) && sameValue(k.win, &before.version)
}

// tombstonesFor returns the tombstones that remove versions of a key.
func tombstonesFor(key string, ids []blockID) []*pb.Element {
	t := make([]*pb.Element, len(ids))
	for i, id := range ids {
		t[i] = &pb.Element{Key: key, Id: id.dsKey()}
	}
	return t
}
