package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
)

// publishIn sets a key in a named DAG.
func (r *replica) publishIn(dag, key, value string) Head {
	r.t.Helper()
	d, err := r.Set().Add(ctx, key, []byte(value))
	r.must(err)
	d.SetDagName(dag)
	h, err := r.Publish(ctx, d)
	r.must(err)
	return h
}

func (r *replica) purgeDAG(dag string, want int) {
	r.t.Helper()
	if n, err := r.PurgeDAG(ctx, dag); n != want || err != nil {
		r.t.Errorf("PurgeDAG(%q): %d, %v; want %d", dag, n, err, want)
	}
}

func TestPurgeForgetsADAG(t *testing.T) {
	var put, deleted []string
	r := newTestNet().newReplica(t, func(o *Options) {
		o.PutHook = func(k ds.Key, v []byte) { put = append(put, fmt.Sprint(k, "=", string(v))) }
		o.DeleteHook = func(k ds.Key) { deleted = append(deleted, k.String()) }
	})
	r.put("/both", "main")
	first := r.publishIn("x", "/both", "x")
	for i := range 5 {
		r.publishIn("x", "/x", fmt.Sprint(i))
	}
	put, deleted = nil, nil
	r.purgeDAG("x", 6)
	if got := fmt.Sprint(r.pairs(), put, deleted); got != "map[/both:main] [/both=main] [/both /x]" && got != "map[/both:main] [/both=main] [/x /both]" {
		t.Errorf("after the purge: %s", got)
	}
	if ok, err := r.IsProcessed(ctx, first.Cid); ok || err != nil {
		t.Errorf("IsProcessed: %v, %v", ok, err)
	}
	if n, err := r.Heads().LenDAG(ctx, "x"); n != 0 || err != nil {
		t.Errorf("%d heads are left: %v", n, err)
	}
	if n := len(r.node.blocks); n != 1 {
		t.Errorf("%d blocks are left, want 1", n)
	}
	r.purgeDAG("x", 0)
	r.purgeDAG("never", 0)
	if h := r.publishIn("x", "/x", "new"); h.Height != 1 || r.get("/x") != "new" {
		t.Errorf("%s begins the DAG anew, and Get gives %q", h, r.get("/x"))
	}
	r.purgeDAG("", 1)
	r.purgeDAG("x", 1)
	for _, prefix := range []string{"/s", "/h", "/a", "/b", "/q", "/p", "/r", "/w"} {
		if rows := r.rowsUnder(prefix); len(rows) > 0 {
			t.Errorf("rows are left: %v", rows)
		}
	}
}

// What was forgotten can be published once more, though a tombstone of the DAG
// itself had removed it.
func TestPurgedBlockIsPublishedAgain(t *testing.T) {
	r := newTestNet().newReplica(t)
	add := func() Delta {
		d := newPBDelta()
		d.SetElements([]*pb.Element{{Key: "/k", Value: []byte("v")}})
		d.SetDagName("x")
		return &untagged{d}
	}
	first, err := r.Publish(ctx, add())
	r.must(err)
	rmv, err := r.Set().Rmv(ctx, "/k")
	r.must(err)
	rmv.SetDagName("x")
	_, err = r.Publish(ctx, rmv)
	r.must(err)
	r.purgeDAG("x", 2)
	again, err := r.Publish(ctx, add())
	r.must(err)
	if again != first || r.get("/k") != "v" {
		t.Errorf("published %s, and then %s with %q", first, again, r.get("/k"))
	}
}

// An untagged delta is not the datastore's own.
type untagged struct{ Delta }

// A block that cannot be read fails a purge, which loses nothing and can be
// called again.
func TestPurgeFailsOverABlockThatCannotBeRead(t *testing.T) {
	r := newTestNet().newReplica(t)
	lost := r.publishIn("x", "/a", "v").Cid
	top := r.publishIn("x", "/b", "v")
	raw := r.node.blocks[lost]
	r.reopenWith(localDAG{r.node}, nil)
	r.must(r.node.Remove(ctx, lost))
	if n, err := r.PurgeDAG(ctx, "x"); n != 0 || err == nil {
		t.Errorf("PurgeDAG: %d, %v", n, err)
	}
	if heads := r.InternalStats(ctx).Heads; len(heads) != 1 || heads[0] != top || len(r.pairs()) != 2 {
		t.Errorf("after a purge that failed: heads %v, pairs %v", heads, r.pairs())
	}
	r.must(r.node.addRaw(lost, raw))
	r.purgeDAG("x", 2)
}

// Nor does it wait for one for ever, however long a request may take: the DAG is hidden meanwhile.
func TestPurgeGivesUpABlockThatNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, func(o *Options) { o.DAGSyncerTimeout, o.RebroadcastInterval = 0, time.Minute })
		lost := r.publishIn("x", "/a", "v").Cid
		r.publishIn("x", "/b", "v")
		show := r.node.hide(t, lost)
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		if _, err := r.PurgeDAG(ctx, "x"); err == nil || ctx.Err() != nil {
			t.Errorf("PurgeDAG: %v", err)
		}
		show()
		r.purgeDAG("x", 2)
	})
}

// A failingDAG fails to remove one block.
type failingDAG struct {
	*testNode
	left int // before it fails
}

func (d *failingDAG) Remove(ctx context.Context, c cid.Cid) error {
	if d.left--; d.left == 0 {
		return errNoBlock
	}
	return d.testNode.Remove(ctx, c)
}

// Wherever a purge is cut off, by the store or by the DAG service, the next one
// leaves nothing behind.
func TestPurgeThatWasCutOffIsFinished(t *testing.T) {
	const blocks = maxGroupBlocks + 20
	for _, at := range []int{1, 2, 3, 4, 5, 100, blocks - 1, blocks} {
		for _, service := range []bool{false, true} {
			t.Run(fmt.Sprintf("service=%v/%d", service, at), func(t *testing.T) {
				t.Parallel()
				cutOffPurge(t, blocks, service, at)
			})
		}
	}
}

func cutOffPurge(t *testing.T, blocks int, service bool, at int) {
	store := newFaultyStore()
	net := newTestNet()
	r := net.newReplicaOn(t, store, silent)
	r.put("/k", "main")
	for i := range blocks {
		r.publishIn("x", fmt.Sprint("/", i%7), fmt.Sprint(i))
	}
	if service {
		r.reopenWith(&failingDAG{r.node, at}, nil)
	} else {
		store.dieAfter(at)
	}
	n, err := r.PurgeDAG(ctx, "x")
	if err == nil && (service || n != blocks) {
		t.Errorf("PurgeDAG: %d, %v", n, err)
	}
	_ = r.Close()
	store.heal()
	r.open()
	if _, err := r.PurgeDAG(ctx, "x"); err != nil {
		t.Errorf("PurgeDAG once more: %v", err)
	}
	if got := fmt.Sprint(r.pairs(), len(r.node.blocks), len(r.rowsUnder("/b")), len(r.rowsUnder("/w"))); got != "map[/k:main] 1 1 0" {
		t.Errorf("pairs, blocks, marks and rows of the purge: %s", got)
	}
	r.purgeDAG("x", 0)
}

// The rows of what the DAG alone has waited for go with it. What others wait for
// is wanted still.
func TestPurgeOfWhatIsNotComplete(t *testing.T) {
	net := newTestNet()
	r, liar := net.newReplica(t, silent), net.node()
	late := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "x", Elements: oneElement("/late")}))
	show := liar.hide(t, late)
	middle := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/middle")}), late)
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 3, DagName: "x", Elements: oneElement("/top")}, middle))
	r.awaitMerged(middle)
	r.reopenWith(localDAG{r.node}, nil)
	r.purgeDAG("x", 2)
	for _, prefix := range []string{"/b", "/q", "/p", "/r", "/s"} {
		if rows := r.rowsUnder(prefix); len(rows) > 0 {
			t.Errorf("rows are left: %v", rows)
		}
	}

	r.reopenWith(r.node, nil)
	other := r.offer(liar, &pb.Delta{Priority: 3, DagName: "y", Elements: oneElement("/other")}, middle)
	r.awaitMerged(middle)
	r.reopenWith(localDAG{r.node}, nil)
	r.purgeDAG("y", 1)
	waitFor(t, "the pending head", func() bool { _, pendingHeads := r.frontier.tips(); return len(pendingHeads) == 1 })
	r.reopenWith(r.node, nil)
	show()
	r.offer(liar, &pb.Delta{Priority: 4, DagName: "y", Elements: oneElement("/more")}, other)
	waitFor(t, "both heads", func() bool { return len(r.InternalStats(ctx).Heads) == 2 && len(r.pairs()) == 4 })
}

// Writes and merges go on beside a purge, and in the end a replica that purges is
// the same as one that does not, as long as that one has the blocks.
func TestPurgeBesideWritesAndMerges(t *testing.T) {
	net := newTestNet()
	a, b := net.newReplica(t), net.newReplica(t)
	for i := range 2 * maxGroupBlocks {
		a.publishIn("x", fmt.Sprint("/", i%50), fmt.Sprint(i))
	}
	converge(t, a, b)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, r := range []*replica{a, b} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if i%3 == 0 {
					r.del(fmt.Sprint("/", i%50))
				} else if r.put(fmt.Sprint("/", i%50), "put"); r == b {
					r.publishIn("x", fmt.Sprint("/b", i%10), "x")
				}
			}
		})
	}
	for range 3 {
		if _, err := a.PurgeDAG(ctx, "x"); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	converge(t, a, b)
}

// A pausedDAG calls a function once, when a block is read for the nth time.
type pausedDAG struct {
	*testNode
	at   cid.Cid
	left atomic.Int32
	then func()
}

func (d *pausedDAG) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if c == d.at && d.left.Add(-1) == 0 {
		d.then()
	}
	return d.testNode.Get(ctx, c)
}

// What is merged while blocks above it are being purged stays when these have gone, and is
// a head then.
func TestPurgeLeavesHeadsThatCameMeanwhile(t *testing.T) {
	net := newTestNet()
	r, late := net.newReplica(t, silent), net.node()
	below := late.forge(t, marshalDelta(t, &pb.Delta{Priority: 1, DagName: "x", Elements: oneElement("/below")}))
	late.away(true)
	above := r.offer(net.node(), &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/above")}, below)
	r.awaitMerged(above)
	service := &pausedDAG{testNode: r.node, at: above, then: func() {
		late.away(false)
		r.node.deliver(announcement(below))
		r.awaitMerged(below)
	}}
	service.left.Store(2) // the first time to find it, the second one to forget it
	r.reopenWith(service, nil)
	r.purgeDAG("x", 1)
	heads, _ := r.frontier.tips()
	if ids := heads.of("x"); len(ids) != 1 || ids[0] != idOf(below) {
		t.Errorf("the heads are %v, want %s", heads.list(), below)
	}
}

// A block that will never be complete may be merged above one that is pending, and counts as
// missing while it is being purged.
func TestPurgeBelowAStrandedBlock(t *testing.T) {
	net := newTestNet()
	r, liar := net.newReplica(t, silent), net.node()
	waits := r.offer(liar, &pb.Delta{Priority: 2, DagName: "x", Elements: oneElement("/k")}, unavailable(0))
	r.awaitMerged(waits)
	bad := liar.forge(t, []byte("not a delta"))
	r.node.deliver(announcement(bad))
	waitFor(t, "a block to be refused", func() bool { return r.state(bad) == refused })
	service := &pausedDAG{testNode: r.node, at: waits, then: func() {
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 3, Elements: oneElement("/k")}, waits, bad))
	}}
	service.left.Store(2) // the first time to find it, the second one to forget it
	r.reopenWith(service, nil)
	r.purgeDAG("x", 1)
}

// A purgeModel is what PurgeDAG means, in the plainest form.
type purgeModel struct {
	blocks map[blockID]*block // all that were ever made
	merged map[blockID]bool
	live   map[versionName]version
	dead   map[versionName]bool // tombstones of versions that are not here
}

func (m *purgeModel) merge(b *block) {
	m.merged[b.id] = true
	for _, t := range b.delta.tombstones {
		if id, ok := parseDsKey(t.GetId()); ok {
			n := versionName{t.GetKey(), id}
			if delete(m.live, n); !m.merged[id] {
				m.dead[n] = true
			}
		}
	}
	for key, l := range b.versions() {
		if n := (versionName{key, b.id}); m.dead[n] {
			delete(m.dead, n)
		} else {
			m.live[n] = l.version
		}
	}
}

func (m *purgeModel) purge(dag string) (n int) {
	named := make(map[versionName]bool) // by other DAGs
	for id := range m.merged {
		for _, t := range m.blocks[id].delta.tombstones {
			if removed, ok := parseDsKey(t.GetId()); ok {
				name := versionName{t.GetKey(), removed}
				named[name] = named[name] || m.blocks[id].delta.dagName != dag
			}
		}
	}
	for id := range m.merged {
		if m.blocks[id].delta.dagName != dag {
			continue
		}
		n++
		delete(m.merged, id)
		for key := range m.blocks[id].versions() {
			name := versionName{key, id}
			_, live := m.live[name]
			if delete(m.live, name); live {
				continue
			}
			if byOthers, known := named[name]; byOthers || !known {
				m.dead[name] = true
			}
		}
	}
	return n
}

func (m *purgeModel) pairs() map[string]string {
	best, pairs := make(map[string]version), make(map[string]string)
	for n, v := range m.live {
		if old, ok := best[n.key]; !ok || v.beats(&old) {
			best[n.key], pairs[n.key] = v, string(v.value)
		}
	}
	return pairs
}

// A purgeTest is one seed: writes, blocks of others in any order, purges, and
// blocks that come again.
type purgeTest struct {
	*replica
	rng   *rand.Rand
	liar  *testNode // whose blocks come when it is time
	model *purgeModel
	hooks map[string]string
}

func TestPurgeAgainstAModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			p := &purgeTest{rng: rand.New(rand.NewPCG(seed, 1)), hooks: make(map[string]string)}
			p.model = &purgeModel{make(map[blockID]*block), make(map[blockID]bool), make(map[versionName]version), make(map[versionName]bool)}
			net := newTestNet()
			p.replica = net.newReplica(t, silent, func(o *Options) {
				o.PutHook = func(k ds.Key, v []byte) { p.hooks[k.String()] = string(v) }
				o.DeleteHook = func(k ds.Key) { delete(p.hooks, k.String()) }
			})
			p.liar = net.node()
			p.reopenWith(localDAG{p.node}, nil)
			p.run()
		})
	}
}

func (p *purgeTest) run() {
	for range 80 {
		switch p.rng.IntN(8) {
		case 0:
			dag := pick(p.rng, "", "x", "y")
			p.purgeDAG(dag, p.model.purge(dag))
		case 1:
			p.put(p.key(), fmt.Sprint(p.rng.IntN(5)))
		case 2:
			p.del(p.key())
		case 3, 4:
			p.forge()
		case 5:
			p.publishIn(pick(p.rng, "x", "y"), p.key(), fmt.Sprint(p.rng.IntN(5)))
		default:
			p.mergeOne()
		}
		p.check()
	}
	for _, id := range p.away() {
		p.mergeBlock(id)
		p.check()
	}
	all := make(modelSet)
	for _, b := range p.model.blocks {
		all.merge(b)
	}
	if got, want := p.pairs(), all.pairs(); !maps.Equal(got, want) {
		p.t.Errorf("when all has come again\n%s", diff(got, want))
	}
	p.reopenWith(localDAG{p.node}, nil) // what was wanted, and has come, is taken notice of
	waitFor(p.t, "nothing to be missing", func() bool { return len(p.rowsUnder("/q")) == 0 })
}

func (p *purgeTest) key() string { return fmt.Sprint("/", p.rng.IntN(4)) }

// forge makes a block that has not come yet.
func (p *purgeTest) forge() {
	d := &pb.Delta{Priority: 1, DagName: pick(p.rng, "", "x", "y"), Elements: []*pb.Element{{Key: p.key(), Value: []byte(fmt.Sprint(p.rng.IntN(5)))}}}
	ids := sortIDs(slices.Collect(maps.Keys(p.model.blocks)))
	var links []cid.Cid
	for range min(len(ids), p.rng.IntN(4)) {
		b := p.model.blocks[pick(p.rng, ids...)]
		if b.delta.dagName == d.DagName || p.rng.IntN(10) == 0 {
			links = append(links, b.id.Cid())
			d.Priority = max(d.Priority, b.delta.priority+1)
		}
		for key := range b.versions() {
			if p.rng.IntN(2) == 0 {
				d.Tombstones = append(d.Tombstones, &pb.Element{Key: key, Id: b.id.dsKey()})
			}
		}
	}
	if p.rng.IntN(10) == 0 {
		d.Priority = 1 + p.rng.Uint64N(20)
	}
	c := p.liar.forge(p.t, marshalDelta(p.t, d), links...)
	id, err := blockIDOf(c)
	p.must(err)
	p.model.blocks[id], err = p.Datastore.blocks.decode(id, p.liar.blocks[c])
	p.must(err)
}

// away returns the blocks that are not merged, in a random order.
func (p *purgeTest) away() (ids []blockID) {
	for id := range p.model.blocks {
		if !p.model.merged[id] {
			ids = append(ids, id)
		}
	}
	sortIDs(ids)
	p.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}

func (p *purgeTest) mergeOne() {
	if ids := p.away(); len(ids) > 0 {
		p.mergeBlock(ids[0])
	}
}

func (p *purgeTest) mergeBlock(id blockID) {
	b := *p.model.blocks[id]
	p.must(p.node.addRaw(id.Cid(), b.raw))
	p.must(p.committer.do(ctx, func(c *commit) error { return c.merge(ctx, &b) }))
}

// check takes notice of what has been merged and compares the pairs, and what the
// hooks told of, with the model's.
func (p *purgeTest) check() {
	p.t.Helper()
	marks := make(map[blockID]bool)
	for _, e := range p.rowsUnder("/b") {
		_, id, _ := splitID(e.Key)
		if marks[id] = true; p.model.merged[id] {
			continue
		}
		if p.model.blocks[id] == nil {
			b, err := p.Datastore.blocks.decode(id, p.node.blocks[id.Cid()])
			p.must(err)
			p.model.blocks[id] = b
		}
		p.model.merge(p.model.blocks[id])
	}
	want := p.model.pairs()
	switch got := p.pairs(); {
	case !maps.Equal(got, want):
		p.t.Fatalf("pairs\n%s", diff(got, want))
	case !maps.Equal(p.hooks, want):
		p.t.Fatalf("the hooks told of other pairs\n%s", diff(p.hooks, want))
	case !maps.Equal(marks, p.model.merged):
		p.t.Fatalf("%d blocks have marks, and %d should", len(marks), len(p.model.merged))
	}
	for id := range p.model.blocks {
		if here := p.node.blocks[id.Cid()] != nil; here != p.model.merged[id] {
			p.t.Fatalf("block %s is in the DAG service: %v; merged: %v", id.Cid(), here, p.model.merged[id])
		}
	}
}

func TestPurgeForgetsClaims(t *testing.T) {
	r := newTestNet().newReplica(t)
	liar := r.node.net.node()
	below := r.offer(liar, &pb.Delta{DagName: "d", Priority: 9, Elements: oneElement("/below")})
	r.awaitMerged(below)
	s := &pb.Delta{DagName: "d", Priority: 1, Snapshot: true, Elements: []*pb.Element{claimOn(unavailable(1), "/k", "claim", 1)}}
	r.awaitMerged(r.offer(liar, s, below, unavailable(2)))
	kept := &pb.Delta{DagName: "other", Priority: 1, Snapshot: true, Elements: []*pb.Element{claimOn(unavailable(3), "/k", "a", 1)}}
	r.awaitMerged(r.offer(liar, kept))
	n, err := r.PurgeDAG(ctx, "d")
	r.must(err)
	if pairs := r.pairs(); n != 2 || len(pairs) != 1 || pairs["/k"] != "a" || len(r.rowsUnder("/s/c")) != 1 {
		t.Errorf("%d blocks were removed, and %v is left, with %d claims", n, pairs, len(r.rowsUnder("/s/c")))
	}
	r.awaitMerged(r.offer(liar, s, below, unavailable(2))) // again
	if got := r.get("/k"); got != "claim" {
		t.Errorf("merged again, the summary gives %q", got)
	}
}

// What the rules were when a block was merged does not matter.
func TestPurgeOfMergedBlocksThatBreakRules(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.publishIn("x", "/large", strings.Repeat("x", 2*minBlockSize))
	r.put("/k", "v")
	r.opts.MaxBlockSize, r.opts.RebroadcastInterval = minBlockSize, time.Hour
	r.restart()
	n, err := r.PurgeDAG(ctx, "x")
	if n != 1 || err != nil {
		t.Errorf("purged %d blocks: %v", n, err)
	}
	if got := r.pairs(); !maps.Equal(got, map[string]string{"/k": "v"}) {
		t.Errorf("pairs: %v", got)
	}
}

// A purge forgets what blocks have, and goes through no rows. What is left of versions that
// they did not have must not be looked for in them for ever.
func TestPurgeOfBlocksThatLackTheirVersions(t *testing.T) {
	for _, covered := range []bool{false, true} {
		for _, loses := range []bool{false, true} { // before the purge, or after it
			r := newTestNet().newReplica(t)
			r.hauntIn("x")
			if loses {
				r.put("/k", "winner")
			}
			if covered {
				r.untidyCheckpointIn("x")
			}
			r.reopenWith(localDAG{r.node}, nil)
			_, err := r.PurgeDAG(ctx, "x")
			r.must(err)
			if !loses {
				r.put("/k", "winner")
			}
			r.removeWinner("/k")
			if got := r.get("/k"); got != "(none)" {
				t.Errorf("covered: %t, loses: %t: /k is %s", covered, loses, got)
			}
		}
	}
}

// A power cut must not bring back marks of blocks that have been removed: a further call could
// not read these, and stop for ever if nobody else has them. Also not when a Sync has failed.
func TestPurgeSyncsBeforeItRemoves(t *testing.T) {
	for failIn := range 3 {
		for _, restart := range []bool{false, true} {
			store := &syncStore{Batching: newAtomicStore(), t: t, failIn: -1}
			r := newTestNet().newReplicaOn(t, store, silent)
			dag := &durableDAG{r.node, store}
			r.reopenWith(dag, nil)
			for i := range 4 {
				r.publishIn("x", fmt.Sprint("/", i), "v")
			}
			r.committer.portion.Store(2)
			store.setFailIn(failIn)
			if _, err := r.PurgeDAG(ctx, "x"); errors.Is(err, errFault) != (failIn < 2) {
				t.Fatalf("Sync %d: %v", failIn, err)
			}
			store.setFailIn(-1)
			if restart {
				r.reopenWith(dag, nil)
			}
			_, err := r.PurgeDAG(ctx, "x")
			r.must(err)
			r.checkPurged()
		}
	}
}

// A block stays as long as somebody is about to read a value from it.
func TestPurgeWaitsForReadersOfValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t)
		old := r.publishIn("x", "/k", "old")
		r.put("/k", "new")
		gate := &gatedDAG{DAGService: r.node, of: old.Cid, open: make(chan struct{})}
		r.reopenWith(gate, nil)
		removed := make(chan error)
		go func() { removed <- r.tryRemoveWinner("/k") }()
		synctest.Wait() // it reads the old value
		purged := make(chan error)
		go func() { _, err := r.PurgeDAG(ctx, "x"); purged <- err }()
		synctest.Wait()
		close(gate.open)
		r.must(errors.Join(<-removed, <-purged))
		if got := r.get("/k"); got != "(none)" {
			t.Errorf("Get: %q", got)
		}
	})
}
