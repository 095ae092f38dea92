package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	ipld "github.com/ipfs/go-ipld-format"
)

// A simReplica is a store and a node of the network, on which one process
// after the other runs a replica. The process that runs, if any, is that in
// replica.
type simReplica struct {
	*replica
	s      *simulation
	number int
	faults *faultyStore
	atomic bool          // a commit is one write to the store
	joiner bool          // its broadcaster is a JoinNotifier
	slow   time.Duration // of each hook

	spread, uncovers, portion int // as in committer

	down   bool // no process runs
	sleeps int  // for so many steps none is started
	spoilt bool // the store has failed some time, or a process was killed
	peer   *simPeer
	mirror *mirror

	purging   *string              // a DAG that it has begun to purge, on the way
	hasPurged bool                 // one, since all had the same
	removed   map[versionName]bool // by blocks of a DAG that it has purged, of others

	merged map[blockID]bool // blocks that it has been seen to have merged
	model  modelSet         // of these
}

// newSimReplica makes a replica that has not been started.
func (s *simulation) newSimReplica(change ...func(*Options)) *simReplica {
	r := &simReplica{
		replica: &replica{t: s.t, node: s.net.node(), opts: testOptions()},
		s:       s,
		number:  len(s.net.nodes) - 1,
		faults:  newFaultyStore(),
		joiner:  s.rng.IntN(2) == 0,
		slow:    pick(s.rng, 0, 0, 0, 20*time.Millisecond),
		spread:  pick(s.rng, 1, 5, maxSpread, maxSpread),

		uncovers: pick(s.rng, 0, 100, maxValueBytes),
		portion:  pick(s.rng, 0, 1, 2, 5),

		down:   true,
		merged: make(map[blockID]bool),
		model:  make(modelSet),
	}
	switch kind := s.rng.IntN(4); kind {
	case 0:
		r.store = plainStore{r.faults}
	case 1:
		r.store = basicStore{r.faults}
	default:
		r.store, r.atomic = r.faults, true
	}
	s.options(r.opts)
	for _, f := range change {
		f(r.opts)
	}
	s.replicas = append(s.replicas, r)
	return r
}

// start runs a process. If the store fails meanwhile, there is none.
func (r *simReplica) start() {
	r.s.changeWalking(r)
	peer, mirror := newSimPeer(r.node), newMirror(r)
	r.faults.onDeath = peer.die
	opts := *r.opts
	opts.PutHook, opts.DeleteHook = mirror.put, mirror.delete
	var bcast Broadcaster = peer
	if r.joiner {
		bcast = joinPeer{peer}
	}
	m, err := NewMerkleCRDT(r.store, testNamespace, r.dagService(peer), bcast, &opts, nil)
	if err != nil {
		if !r.faults.failing() {
			r.t.Errorf("opening replica %d: %s", r.number, err)
		}
		r.faults.heal()
		r.spoilt = true
		return
	}
	r.MerkleCRDT, r.peer, r.mirror, r.down = m, peer, mirror, false
	tags := rand.New(rand.NewPCG(r.s.rng.Uint64(), 0)) // the same ids in each run of a seed
	m.Datastore.blocks.newTag = func() []byte { return binary.BigEndian.AppendUint64(nil, tags.Uint64()) }
	r.limitCommits(r.spread, r.uncovers)
	m.committer.portion.Store(int64(r.portion))
	if r.slow > 0 { // long jobs wait between their commits, and others come between
		r.limitHooks(2, 1<<20)
	}
	r.checkReopened()
	mirror.begin(r.pairs())
	close(peer.up)
}

func (r *simReplica) dagService(peer *simPeer) ipld.DAGService {
	if r.number%2 == 0 {
		return peer
	}
	return sessionPeer{peer}
}

// crash ends the process: nothing that it still does reaches the store or the
// network.
func (r *simReplica) crash() {
	r.spoilt = true
	r.faults.dieAfter(0)
	r.peer.die()
	_ = r.Close() // cannot write any more
	r.faults.heal()
	r.down = true
}

// reap takes notice of a process that has died on its own.
func (r *simReplica) reap() {
	if !r.down && r.faults.hasDied() {
		r.crash()
	}
}

// stop ends the process in good order.
func (r *simReplica) stop() {
	r.checkMirror()
	r.spoilt = r.spoilt || r.faults.failing()
	if err := r.Close(); err != nil && !r.faults.failing() {
		r.t.Errorf("closing replica %d: %s", r.number, err)
	}
	r.faults.heal()
	r.down = true
}

// look takes notice of what has been merged, and returns the pairs that the
// plain model has for it, and whether some of a snapshot may be here as well.
func (r *simReplica) look() (pairs map[string]string, early bool) {
	r.t.Helper()
	states := r.states()
	r.noticeGone(states)
	for id := range r.merged {
		if !states[id].merged() {
			r.t.Errorf("replica %d has lost block %s: its mark is %d", r.number, id.Cid(), states[id])
		}
	}
	for id, state := range states {
		if state == refused && (r.s.liar.forged(id) || r.s.isMerePage(id)) {
			delete(states, id)
			continue
		}
		if !state.merged() {
			r.t.Errorf("replica %d has not merged block %s: its mark is %d", r.number, id.Cid(), state)
		} else if !r.merged[id] {
			r.merged[id] = true
			r.model.merge(r.s.block(id))
		}
	}
	r.checkHeads(states)
	r.mergeParts(r.model)
	r.checkVersions(states)
	r.checkHonest()
	return r.model.pairs(), r.early(states)
}

// checkHeads compares the heads in the store with what they should be: the
// complete blocks that no complete block of their DAG builds on. While a call is to be made
// again that was to purge the DAG, others may be heads as well: what was to be purged and
// came to be complete meanwhile has taken no head's place.
func (r *simReplica) checkHeads(states map[blockID]markState) {
	r.t.Helper()
	want := make(tips)
	for id, state := range states {
		if d := r.s.block(id).delta; state == complete {
			want[id] = HeadValue{Height: d.priority, DAGName: d.dagName}
		}
	}
	for id, state := range states {
		for _, link := range r.s.block(id).links {
			if state == complete && want[link].DAGName == r.s.block(id).delta.dagName {
				delete(want, link)
			}
		}
	}
	got, _, err := r.Datastore.store.loadTips(ctx)
	r.must(err)
	maps.DeleteFunc(got, func(id blockID, tip HeadValue) bool {
		_, ok := want[id]
		return !ok && states[id] == complete && r.purging != nil && *r.purging == tip.DAGName
	})
	if !maps.Equal(got, want) {
		r.t.Errorf("replica %d has the heads %v, and should have %v", r.number, got.list(), want.list())
	}
}

// states returns all marks. No commit may be going on.
func (r *simReplica) states() map[blockID]markState {
	states := make(map[blockID]markState)
	for _, e := range r.rowsUnder("/b") {
		_, id, _ := splitID(e.Key)
		m, err := decodeMark(e.Value)
		r.must(err)
		states[id] = m.state
	}
	r.addCovered(states)
	return states
}

// torn reports whether a commit was cut off: reads may see half of it until the
// next commit.
func (r *simReplica) torn() bool {
	found, err := r.store.Has(ctx, r.Datastore.store.keys.redo)
	r.must(err)
	return found
}

// checkReopened compares a replica that has just been started with what is known
// of its store. It has not heard of anything yet, but may go on with a cascade.
func (r *simReplica) checkReopened() {
	r.t.Helper()
	r.must(r.committer.acquire(ctx))
	defer r.committer.release()
	want, early := r.look()
	if got := r.pairs(); !early && !maps.Equal(got, want) {
		r.t.Errorf("replica %d was started with other pairs than its blocks amount to\n%s", r.number, diff(got, want))
	}
}

// checkPairs compares a replica that has no commit going on with the model.
func (r *simReplica) checkPairs() {
	r.t.Helper()
	if r.down || r.torn() {
		return
	}
	want, early := r.look()
	if got := r.pairs(); !early && !maps.Equal(got, want) {
		r.t.Errorf("replica %d holds other pairs than its blocks amount to\n%s", r.number, diff(got, want))
	}
}

// A mirror is a copy of the pairs that the hooks alone keep up to date.
type mirror struct {
	r     *simReplica
	mu    sync.Mutex
	pairs map[string]string
}

func newMirror(r *simReplica) *mirror { return &mirror{r: r} }

func (m *mirror) begin(pairs map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pairs != nil {
		m.r.t.Errorf("replica %d ran a hook before it could have heard of anything", m.r.number)
	}
	m.pairs = pairs
}

func (m *mirror) put(k ds.Key, v []byte) {
	time.Sleep(m.r.slow)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pairs == nil {
		m.pairs = make(map[string]string)
	}
	m.pairs[k.String()] = string(v)
}

func (m *mirror) delete(k ds.Key) {
	time.Sleep(m.r.slow)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.pairs[k.String()]; !ok {
		m.r.t.Errorf("replica %d: DeleteHook was called with %q, which was not there", m.r.number, k)
	}
	delete(m.pairs, k.String())
}

// checkMirror compares what the hooks told of with what there is.
func (r *simReplica) checkMirror() {
	r.t.Helper()
	synctest.Wait()
	if r.faults.hasDied() || r.torn() || !r.hooksRun() {
		return
	}
	r.mirror.mu.Lock()
	defer r.mirror.mu.Unlock()
	if got, want := r.mirror.pairs, r.pairs(); !maps.Equal(got, want) {
		r.t.Errorf("replica %d: the hooks told of other pairs than there are\n%s", r.number, diff(got, want))
	}
}

// A simPeer is a node as one process sees it: not before it is up, and not once
// the process is dead.
type simPeer struct {
	*testNode
	up, dead chan struct{}
	kill     sync.Once
	joined   chan struct{} // holds a token when a peer has come
}

func newSimPeer(node *testNode) *simPeer {
	return &simPeer{testNode: node, up: make(chan struct{}), dead: make(chan struct{}), joined: make(chan struct{}, 1)}
}

func (p *simPeer) die() { p.kill.Do(func() { close(p.dead) }) }

func (p *simPeer) check() error {
	select {
	case <-p.dead:
		return errDied
	default:
		return nil
	}
}

// await waits until the process may use the network.
func (p *simPeer) await(ctx context.Context) error {
	select {
	case <-p.up:
		return p.check()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *simPeer) Broadcast(ctx context.Context, data []byte) error {
	if err := p.check(); err != nil {
		return err
	}
	return p.testNode.Broadcast(ctx, data)
}

func (p *simPeer) Next(ctx context.Context) ([]byte, error) {
	if err := p.await(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoMoreBroadcast, err)
	}
	return p.testNode.Next(ctx)
}

func (p *simPeer) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if err := p.await(ctx); err != nil {
		return nil, err
	}
	return p.testNode.Get(ctx, c)
}

func (p *simPeer) Add(ctx context.Context, nd ipld.Node) error {
	if err := p.check(); err != nil {
		return err
	}
	return p.testNode.Add(ctx, nd)
}

func (p *simPeer) AddMany(ctx context.Context, nds []ipld.Node) error {
	if err := p.check(); err != nil {
		return err
	}
	return p.testNode.AddMany(ctx, nds)
}

func (p *simPeer) Remove(ctx context.Context, c cid.Cid) error {
	if err := p.check(); err != nil {
		return err
	}
	return p.testNode.Remove(ctx, c)
}

// A joinPeer is told when peers come.
type joinPeer struct{ *simPeer }

func (p joinPeer) Joined(ctx context.Context) error {
	select {
	case <-p.joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A sessionPeer has sessions. One that has ended gives nothing any more.
type sessionPeer struct{ *simPeer }

func (p sessionPeer) Session(ctx context.Context) ipld.NodeGetter { return simSession{p.simPeer, ctx} }

type simSession struct {
	*simPeer
	ctx context.Context
}

func (g simSession) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	if g.ctx.Err() != nil {
		return nil, g.ctx.Err()
	}
	return g.simPeer.Get(ctx, c)
}
