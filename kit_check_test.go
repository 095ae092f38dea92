package crdt

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
)

// checkStore checks what a closed replica left in its store.
func checkStore(t *testing.T, r *replica) {
	t.Helper()
	keys := r.Datastore.store.keys
	for _, k := range []ds.Key{keys.open, keys.redo} {
		if found, err := r.store.Has(context.Background(), k); found || err != nil {
			t.Errorf("row %s is left after Close: %v", k, err)
		}
	}
	checkRows(t, r)
}

// checkRows checks the rows of a replica that has no commit going on: every one is of
// its kind, the frontier covers all merged blocks, what lies below a head is
// complete, whoever waits is known to what it waits for, and the records are those
// that the merged blocks amount to.
func checkRows(t *testing.T, r *replica) {
	t.Helper()
	heads, pendingHeads, err := r.Datastore.store.loadTips(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	c := newStoreCheck(t, r)
	model := c.readBlocks()
	for id := range heads {
		c.cover(id, true)
	}
	for id := range pendingHeads {
		c.cover(id, false)
	}
	c.checkPairs(c.mergeSnapshots(model))
	checkKeyBound(t, r)
	c.checkClaims()
	c.checkTombstones()
	c.checkCheckpoints()
	c.checkWaiters(&frontier{heads: heads, pendingHeads: pendingHeads})
	if !c.mayWait() {
		c.checkNothingWaits()
	}
}

type storeCheck struct {
	t       *testing.T
	r       *replica
	marks   map[blockID]*mark
	links   map[blockID][]blockID // of the merged blocks that are here
	summed  map[blockID][]blockID // by summaries
	reached map[blockID]bool      // from a head or pending head

	checkpoints checkpoints
	held        []*heldCheck // of them
}

func newStoreCheck(t *testing.T, r *replica) *storeCheck {
	c := &storeCheck{t: t, r: r, marks: make(map[blockID]*mark), links: make(map[blockID][]blockID), summed: make(map[blockID][]blockID), reached: make(map[blockID]bool)}
	c.readMarks()
	c.readCovers()
	return c
}

func (c *storeCheck) readMarks() {
	for e, err := range c.r.Datastore.store.rowsOf(ctx, c.r.Datastore.store.keys.blocks, 1, false) {
		if err != nil {
			c.t.Error(err)
			return
		}
		_, id, ok := splitID(e.Key)
		m, err := decodeMark(e.Value)
		if !ok || err != nil {
			c.t.Errorf("bad block row %s: %v", e.Key, err)
			continue
		}
		c.marks[id] = m
	}
}

// block returns a block that is here, or nil.
func (c *storeCheck) block(id blockID) *block {
	raw := c.r.node.raw(id)
	if raw == nil {
		return nil
	}
	b, err := c.r.Datastore.blocks.parse(id, raw)
	if err != nil {
		c.t.Errorf("merged block %s: %s", id.Cid(), err)
		return nil
	}
	return b
}

// readBlocks returns what the merged blocks amount to, or nil if one is gone.
func (c *storeCheck) readBlocks() modelSet {
	model := make(modelSet)
	for id, m := range c.marks {
		if !m.state.merged() {
			continue
		}
		b := c.block(id)
		if b == nil {
			model = nil
			continue
		}
		c.links[id], c.summed[id] = b.links, b.summed
		if model != nil {
			model.merge(b)
		}
	}
	return model
}

// cover goes down from a head, below which all must be complete, or a pending head.
func (c *storeCheck) cover(id blockID, head bool) {
	if c.reached[id] {
		return
	}
	m := c.mark(id)
	merged := m.state.merged()
	if c.marks[id] == nil && merged {
		return // a cover is all that is left of it
	}
	if head && (!merged || m.state != complete || c.r.node.raw(id) == nil) {
		c.t.Errorf("block %s below a head is not complete or not here", id.Cid())
	}
	if !merged {
		return
	}
	c.reached[id] = true
	for _, link := range c.links[id] {
		c.cover(link, head)
	}
	for _, link := range c.summed[id] {
		c.cover(link, false)
	}
}

// checkPairs holds the records against the plain model, unless blocks are gone,
// and with them what the model would be built from.
func (c *storeCheck) checkPairs(model modelSet) {
	if model == nil {
		return
	}
	for id, m := range c.marks {
		if m.state.merged() && m.state != stranded && !c.reached[id] && !c.covered(id) {
			c.t.Errorf("merged block %s is not below any head or pending head", id.Cid())
		}
	}
	c.r.mergeParts(model)
	got := make(map[string]string)
	for _, e := range c.r.rowsUnder("/s/r") {
		rec, err := decodeRecord(e.Value)
		if err != nil {
			c.t.Errorf("record %s: %s", e.Key, err)
			continue
		}
		key := e.Key[len(c.r.Datastore.store.keys.records):]
		got[key] = string(rec.value)
		checkLosers(c.t, c.r.Datastore.store, key, rec)
	}
	if want := model.pairs(); !c.early() && !maps.Equal(got, want) {
		c.t.Errorf("the store holds %d records that differ from the %d pairs that its blocks amount to\nhas  %.500s\nwant %.500s", len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
	}
}

// checkLosers holds what a record says of its losers against their rows.
func checkLosers(t *testing.T, store *rowStore, key string, r *record) {
	t.Helper()
	for e, err := range store.rowsOf(ctx, store.keys.losersOf(key), 1, false) {
		if err != nil {
			t.Fatal(err)
		}
		_, id, _ := splitID(e.Key)
		l, err := decodeLoser(id, e.Value)
		switch {
		case err != nil:
			t.Errorf("a loser of %s: %s", key, err)
		case !r.losers:
			t.Errorf("the record of %s says that there are no losers, and there is %+v", key, l)
		case id == r.id && !r.unresolved:
			t.Errorf("the winner of %s has a row among its losers", key)
		case r.low && l.mayHave(maxPriority):
			t.Errorf("the record of %s says that all losers are low, and one is %+v", key, l)
		case !l.unranked && l.priority > r.priority, l.hasValue && !sameValue(&l.version, &r.version) && l.beats(&r.version):
			t.Errorf("the winner of %s, of priority %d, does not beat %+v", key, r.priority, l)
		}
	}
}

// checkClaims checks that nothing is claimed about merged blocks.
func (c *storeCheck) checkClaims() {
	for _, e := range c.r.rowsUnder("/s/c") {
		name := strings.Split(strings.TrimPrefix(e.Key, c.r.Datastore.store.keys.claims), "/")[1]
		id, ok := parseBlockID(name)
		if m := c.marks[id]; !ok || m != nil && m.state.merged() {
			c.t.Errorf("claim row %s is left", e.Key)
		}
	}
}

// checkTombstones checks that no tombstone is left of a version whose block has been merged.
func (c *storeCheck) checkTombstones() {
	for _, e := range c.r.rowsUnder("/s/t") {
		if _, id, ok := splitID(e.Key); ok && c.mark(id).state.merged() && !c.telling() {
			c.t.Errorf("tombstone row %s is left", e.Key)
		}
	}
}

// checkCheckpoints checks that what is known of checkpoints is what their blocks say.
func (c *storeCheck) checkCheckpoints() {
	all, err := c.r.Datastore.store.loadCheckpoints(ctx)
	if err != nil {
		c.t.Error(err)
	}
	for id, cp := range all {
		b := c.block(id)
		if b == nil {
			continue // it may have been purged, or dropped
		}
		if said := b.checkpoint(); said == nil || cp.tip != said.tip || cp.snapshot != said.snapshot || !slices.Equal(cp.links, said.links) {
			c.t.Errorf("block %s is known as the checkpoint %+v, and is %+v", id.Cid(), cp, said)
		}
	}
}

// checkWaiters checks that each block that is missing, or pending, or of which its
// parents have still to be told, is known to those that wait for it.
func (c *storeCheck) checkWaiters(f *frontier) {
	dag := newDAGChange(c.r.Datastore.store, f, &checkpointsChange{}, 0)
	waits := make(map[blockID]int) // for how many others a block waits
	told := make(map[blockID]bool) // it is pending, and has to be told that it is stranded
	under := make(map[blockID]bool)
	for _, child := range c.waitedFor() {
		_, queued, err := dag.store.getRow(ctx, dag.store.keys.queued(child))
		c.r.must(err)
		m := c.mark(child)
		if m.state != pending && !queued && !(c.covered(child) && c.telling()) {
			c.t.Errorf("others wait for block %s, which is %d and not queued", child.Cid(), m.state)
		}
		parents, err := dag.parents(ctx, child, math.MaxInt)
		c.r.must(err)
		for _, p := range parents {
			above := c.mark(p)
			if above.state != pending && above.state != stranded && !c.covered(p) && !c.telling() {
				c.t.Errorf("block %s waits for %s, and is %d", p.Cid(), child.Cid(), above.state)
			}
			waits[p]++
			told[p] = told[p] || m.state == refused || m.state == stranded
			under[child] = under[child] || above.state == pending && above.tip.DAGName == m.tip.DAGName
		}
	}
	for id := range c.marks {
		m := c.mark(id)
		if m.state != pending || c.telling() {
			continue
		}
		if !told[id] && int(m.missing) != waits[id] {
			c.t.Errorf("pending block %s waits for %d blocks, and is to wait for %d", id.Cid(), waits[id], m.missing)
		}
		if _, top := f.pendingHeads[id]; top && m.neverHead || !top && !m.neverHead && !under[id] {
			c.t.Errorf("pending block %s: pending head %v, never a head %v, below a pending one %v", id.Cid(), top, m.neverHead, under[id])
		}
	}
}

// waitedFor returns the blocks that others wait for.
func (c *storeCheck) waitedFor() (ids []blockID) {
	s := c.r.Datastore.store
	for e, err := range s.rowsOf(ctx, s.keys.waiting+"/w", 1, true) {
		c.r.must(err)
		_, id, ok := splitID(e.Key)
		if !ok {
			c.t.Errorf("bad row of waiters %s", e.Key)
		}
		ids = append(ids, id)
	}
	return ids
}

// mark returns what is known of a block.
func (c *storeCheck) mark(id blockID) *mark {
	m := c.marks[id]
	switch {
	case (m == nil || m.state == pending) && c.covered(id):
		return &mark{state: complete}
	case m == nil:
		return &mark{state: unknown}
	}
	return m
}

func (c *storeCheck) checkNothingWaits() {
	begun := make(map[string]bool)
	for _, b := range c.r.begun() {
		begun[c.r.Datastore.store.keys.queued(b.id).String()] = true
	}
	for _, prefix := range []string{"/q", "/p", "/r"} {
		rows := slices.DeleteFunc(c.r.rowsUnder(prefix), func(e query.Entry) bool { return strings.Contains(e.Key, "/blocks/") || begun[e.Key] })
		if len(rows) > 0 {
			c.t.Errorf("%d rows are left under %s, such as %s", len(rows), prefix, rows[0].Key)
		}
	}
}

// begun returns the blocks that may have been merged in part: they are here, queued
// and not merged.
func (r *replica) begun() (blocks []*block) {
	s := r.Datastore.store
	for _, e := range r.rowsUnder("/q") {
		_, id, ok := splitID(e.Key)
		raw := r.node.raw(id)
		if _, merged, err := s.getRow(ctx, s.keys.block(id)); !ok || merged || err != nil || raw == nil {
			continue
		}
		if b, err := r.Datastore.blocks.decode(id, raw); err == nil && len(b.delta.tombstones) > 0 {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// mergeParts adds to the model what shows of blocks that are merged in parts: those
// of their tombstones whose versions are gone from the store.
func (r *replica) mergeParts(m modelSet) {
	set := newSetChange(r.Datastore.store, true, true)
	for _, b := range r.begun() {
		for _, t := range b.delta.tombstones {
			id, ok := parseDsKey(t.GetId())
			if _, given := m.key(t.GetKey()).versions[id]; !ok || !given {
				continue
			}
			k, err := set.load(ctx, t.GetKey())
			r.must(err)
			live, err := set.isLive(ctx, k, id)
			r.must(err)
			if !live {
				m.key(t.GetKey()).tombstones[id] = true
			}
		}
	}
}

// mayWait reports whether a block may wait for others: a stranded one too may have come
// to be so while it did.
func (c *storeCheck) mayWait() bool {
	for _, m := range c.marks {
		if m.state == pending || m.state == stranded {
			return true
		}
	}
	return c.telling()
}

// A modelSet is compat.md §3 in the plainest form: all versions and all
// tombstones of the merged blocks.
type modelSet map[string]*modelKey

type modelKey struct {
	versions   map[blockID]version
	tombstones map[blockID]bool
	claims     map[blockID]version // the greatest of summaries, for each
}

// mergedBlocks is the key under which a modelSet has a version for each merged block.
const mergedBlocks = ""

func (m modelSet) key(k string) *modelKey {
	if m[k] == nil {
		m[k] = &modelKey{make(map[blockID]version), make(map[blockID]bool), make(map[blockID]version)}
	}
	return m[k]
}

func (m modelSet) merge(b *block) {
	m.key(mergedBlocks).versions[b.id] = version{}
	for _, e := range b.delta.claims {
		id, _ := parseDsKey(e.GetId())
		k, v := m.key(e.GetKey()), version{id: id, priority: e.GetPriority(), value: e.GetValue()}
		if old, ok := k.claims[id]; !ok || v.beats(&old) {
			k.claims[id] = v
		}
	}
	for _, e := range b.delta.elements {
		k := m.key(e.GetKey())
		v := version{id: b.id, priority: b.delta.priority, value: e.GetValue()}
		if old, ok := k.versions[b.id]; !ok || string(v.value) > string(old.value) {
			k.versions[b.id] = v
		}
	}
	for _, e := range b.delta.tombstones {
		if id, ok := parseDsKey(e.GetId()); ok {
			m.key(e.GetKey()).tombstones[id] = true
		}
	}
}

// versions are those of a key: what blocks gave to it, and the claims about
// blocks that are not merged.
func (m modelSet) versions(k *modelKey) map[blockID]version {
	all := maps.Clone(k.versions)
	for id, v := range k.claims {
		if _, merged := m[mergedBlocks].versions[id]; !merged {
			all[id] = v
		}
	}
	return all
}

func (m modelSet) pairs() map[string]string {
	pairs := make(map[string]string)
	for key, k := range m {
		if key == mergedBlocks {
			continue
		}
		var best *version
		for id, v := range m.versions(k) {
			if k.tombstones[id] {
				continue
			}
			if best == nil || v.priority > best.priority || v.priority == best.priority && string(v.value) > string(best.value) {
				best = &v
			}
		}
		if best != nil {
			pairs[key] = string(best.value)
		}
	}
	return pairs
}

// live returns the live versions of a key, the best first.
func (m modelSet) live(key string) []version {
	var live []version
	for id, v := range m.key(key).versions {
		if !m[key].tombstones[id] {
			live = append(live, v)
		}
	}
	slices.SortFunc(live, func(a, b version) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(string(b.value), string(a.value)))
	})
	return live
}

// Rows that are not of the datastore: neighbours of its namespace in every way.
var neighbours = []oldRow{
	{"/crdt", []byte("the namespace itself")},
	{"/crdtx/s/r/k", []byte("longer")},
	{"/crdt2", []byte("longer")},
	{"/crd/s/r/k", []byte("shorter")},
	{"/other/crdt/h", []byte("elsewhere")},
	{"/h/x", []byte("named as a row within")},
}

// plantNeighbours puts rows beside the namespace; what they are is to be
// checked with beside.
func plantNeighbours(t *testing.T, store ds.Datastore) {
	t.Helper()
	for _, r := range neighbours {
		if err := store.Put(ctx, ds.RawKey(r.Key), r.Value); err != nil {
			t.Fatal(err)
		}
	}
}

// checkNeighbours checks that nothing was written beside the namespace.
func checkNeighbours(t *testing.T, store ds.Datastore) {
	t.Helper()
	want := make(map[string]string)
	for _, r := range neighbours {
		want[r.Key] = string(r.Value)
	}
	got := dump(t, store)
	maps.DeleteFunc(got, func(k, _ string) bool { return strings.HasPrefix(k, testNamespace.String()+"/") })
	if !maps.Equal(got, want) {
		t.Errorf("rows outside the namespace have changed\n%s", diff(got, want))
	}
}

func dump(t *testing.T, store ds.Datastore) map[string]string {
	t.Helper()
	res, err := store.Query(ctx, query.Query{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := res.Rest()
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string, len(all))
	for _, e := range all {
		rows[e.Key] = string(e.Value)
	}
	return rows
}

func diff(got, want map[string]string) string {
	var lines []string
	for key, value := range got {
		if w, ok := want[key]; !ok || w != value {
			lines = append(lines, fmt.Sprintf("has   %s = %.100q", key, value))
		}
	}
	for key, value := range want {
		if g, ok := got[key]; !ok || g != value {
			lines = append(lines, fmt.Sprintf("wants %s = %.100q", key, value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines[:min(len(lines), 4)], "\n")
}
