package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	ipld "github.com/ipfs/go-ipld-format"
	dag "github.com/ipfs/go-merkledag"
)

// A testNet joins replicas: it carries broadcasts and blocks between those in
// the same part of the network, badly if asked to.
type testNet struct {
	mu                                sync.Mutex
	rand                              *rand.Rand
	nodes                             []*testNode
	drop, duplicate, reorder, corrupt float64       // of broadcasts: how likely
	delay                             time.Duration // of every request for a block
	changed                           chan struct{} // closed when a block or a link has come
}

func newTestNet() *testNet {
	return &testNet{rand: rand.New(rand.NewPCG(1, 2)), changed: make(chan struct{})}
}

func (n *testNet) signalLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// A testNode is one replica's end of the network: its Broadcaster and its
// DAG service, which keeps blocks as their raw bytes.
type testNode struct {
	net    *testNet
	part   int // nodes of the same part reach each other
	blocks map[cid.Cid][]byte
	inbox  [][]byte
	wake   chan struct{}

	requests, sent int
	messages       [][]byte // sent
	addError       error
}

func (n *testNet) node() *testNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := &testNode{net: n, blocks: make(map[cid.Cid][]byte), wake: make(chan struct{}, 1)}
	n.nodes = append(n.nodes, node)
	return node
}

// split puts each node into the part given, and joins all when none is.
func (n *testNet) split(parts ...int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, node := range n.nodes {
		node.part = 0
		if i < len(parts) {
			node.part = parts[i]
		}
	}
	n.signalLocked()
}

func (n *testNet) heal() {
	n.mu.Lock()
	n.drop, n.duplicate, n.reorder, n.corrupt = 0, 0, 0, 0
	n.mu.Unlock()
	n.split()
}

func (node *testNode) Broadcast(ctx context.Context, data []byte) error {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	node.sent++
	node.messages = append(node.messages, data)
	for _, to := range n.nodes {
		if to != node && to.part == node.part {
			n.sendLocked(to, data)
		}
	}
	return nil
}

func (n *testNet) sendLocked(to *testNode, data []byte) {
	data = slices.Clone(data)
	if n.rand.Float64() < n.drop {
		return
	}
	if n.rand.Float64() < n.corrupt && len(data) > 0 {
		data[n.rand.IntN(len(data))] ^= byte(1 + n.rand.IntN(255))
	}
	to.inbox = append(to.inbox, data)
	if n.rand.Float64() < n.duplicate {
		to.inbox = append(to.inbox, data)
	}
	if n.rand.Float64() < n.reorder {
		n.rand.Shuffle(len(to.inbox), func(i, j int) { to.inbox[i], to.inbox[j] = to.inbox[j], to.inbox[i] })
	}
	select {
	case to.wake <- struct{}{}:
	default:
	}
}

// deliver hands a node a message, as a peer would.
func (node *testNode) deliver(data []byte) {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	node.net.sendLocked(node, data)
}

func (node *testNode) Next(ctx context.Context) ([]byte, error) {
	for {
		node.net.mu.Lock()
		if len(node.inbox) > 0 {
			data := node.inbox[0]
			node.inbox = node.inbox[1:]
			node.net.mu.Unlock()
			return data, nil
		}
		node.net.mu.Unlock()
		select {
		case <-node.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Get waits until the block can be had, as bitswap does.
func (node *testNode) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	node.net.mu.Lock()
	delay := node.net.delay
	node.net.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for {
		raw, changed := node.find(c)
		if raw != nil {
			nd, err := dag.DecodeProtobuf(raw)
			if err != nil {
				nd = dag.NodeWithData(nil)
			}
			return &rawNode{Node: nd, raw: raw, cid: c}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (node *testNode) find(c cid.Cid) ([]byte, chan struct{}) {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	node.requests++
	for _, from := range append([]*testNode{node}, n.nodes...) {
		if raw := from.blocks[c]; raw != nil && from.part == node.part {
			node.blocks[c] = raw
			return raw, nil
		}
	}
	return nil, n.changed
}

// rawNode has bytes that need not be those of a dag-pb node.
type rawNode struct {
	ipld.Node
	raw []byte
	cid cid.Cid
}

func (n *rawNode) RawData() []byte { return n.raw }
func (n *rawNode) Cid() cid.Cid    { return n.cid }

func (node *testNode) GetMany(ctx context.Context, cids []cid.Cid) <-chan *ipld.NodeOption {
	out := make(chan *ipld.NodeOption, len(cids))
	for _, c := range cids {
		nd, err := node.Get(ctx, c)
		out <- &ipld.NodeOption{Node: nd, Err: err}
	}
	close(out)
	return out
}

func (node *testNode) Add(ctx context.Context, nd ipld.Node) error {
	return node.addRaw(nd.Cid(), nd.RawData())
}

func (node *testNode) addRaw(c cid.Cid, raw []byte) error {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	if node.addError != nil {
		return node.addError
	}
	node.blocks[c] = raw
	node.net.signalLocked()
	return nil
}

func (node *testNode) AddMany(ctx context.Context, nds []ipld.Node) error {
	for _, nd := range nds {
		if err := node.Add(ctx, nd); err != nil {
			return err
		}
	}
	return nil
}

func (node *testNode) Remove(ctx context.Context, c cid.Cid) error {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	delete(node.blocks, c)
	return nil
}

func (node *testNode) RemoveMany(ctx context.Context, cids []cid.Cid) error {
	for _, c := range cids {
		_ = node.Remove(ctx, c)
	}
	return nil
}

// A replica is a datastore under test, with what it stands on.
type replica struct {
	*MerkleCRDT
	t     *testing.T
	store ds.Datastore
	node  *testNode
	opts  *Options
}

var testNamespace = ds.NewKey("/crdt")

func testOptions() *Options {
	o := DefaultOptions()
	o.RebroadcastInterval = 200 * time.Millisecond
	o.DAGSyncerTimeout = 10 * time.Second
	return o
}

// newReplica opens a replica on an empty store. At the end of the test it is
// closed and everything in its store is checked.
func (n *testNet) newReplica(t *testing.T, change ...func(*Options)) *replica {
	return n.newReplicaOn(t, newAtomicStore(), change...)
}

func (n *testNet) newReplicaOn(t *testing.T, store ds.Datastore, change ...func(*Options)) *replica {
	r := &replica{t: t, store: store, node: n.node(), opts: testOptions()}
	for _, f := range change {
		f(r.opts)
	}
	r.open()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("closing: %s", err)
		}
		checkStore(t, r)
	})
	return r
}

func (r *replica) open() {
	r.t.Helper()
	m, err := NewMerkleCRDT(r.store, testNamespace, r.node, r.node, r.opts, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.MerkleCRDT = m
}

func (r *replica) restart() {
	r.t.Helper()
	r.must(r.Close())
	r.open()
}

func (r *replica) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) put(key, value string) {
	r.t.Helper()
	r.must(r.Put(context.Background(), ds.NewKey(key), []byte(value)))
}

func (r *replica) del(key string) {
	r.t.Helper()
	r.must(r.Delete(context.Background(), ds.NewKey(key)))
}

func (r *replica) get(key string) string {
	r.t.Helper()
	v, err := r.Get(context.Background(), ds.NewKey(key))
	if errors.Is(err, ds.ErrNotFound) {
		return "(none)"
	}
	r.must(err)
	return string(v)
}

func (r *replica) pairs() map[string]string {
	r.t.Helper()
	res, err := r.Query(context.Background(), query.Query{})
	r.must(err)
	all, err := res.Rest()
	r.must(err)
	m := make(map[string]string, len(all))
	for _, e := range all {
		m[e.Key] = string(e.Value)
	}
	return m
}

func (r *replica) rowsUnder(prefix string) (rows []query.Entry) {
	r.t.Helper()
	res, err := r.store.Query(context.Background(), query.Query{Prefix: testNamespace.String() + prefix})
	r.must(err)
	rows, err = res.Rest()
	r.must(err)
	return rows
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// converge waits until all replicas hold the same heads, with nothing missing,
// and fails unless they then hold the same pairs.
func converge(t *testing.T, replicas ...*replica) map[string]string {
	t.Helper()
	waitFor(t, "replicas to have the same heads", func() bool {
		first, _ := replicas[0].frontier.get()
		for _, r := range replicas {
			heads, roots := r.frontier.get()
			if len(roots) > 0 || !maps.Equal(heads, first) {
				return false
			}
		}
		return true
	})
	want := replicas[0].pairs()
	for i, r := range replicas[1:] {
		if got := r.pairs(); !maps.Equal(got, want) {
			t.Fatalf("replica %d holds %v, replica 0 holds %v", i+1, got, want)
		}
	}
	return want
}

// checkStore checks what a closed replica left in its store: every row is of
// its kind, the frontier covers all merged blocks, what lies below a head is
// complete, and the records are those that the merged blocks amount to.
func checkStore(t *testing.T, r *replica) {
	t.Helper()
	for _, e := range r.rowsUnder("/bs") {
		t.Errorf("row %s is left after Close", e.Key)
	}
	var f frontier
	if err := f.load(context.Background(), r.Datastore.store); err != nil {
		t.Error(err)
		return
	}
	heads, roots := f.get()
	c := &storeCheck{t: t, r: r, marks: make(map[blockID]*mark), covered: make(map[blockID]bool)}
	c.readMarks()
	for id := range heads {
		c.cover(id, true)
	}
	for id := range roots {
		c.cover(id, false)
	}
	c.checkPairs()
	if len(roots) == 0 && !anyStranded(c.marks) {
		c.checkNothingWaits()
	}
}

type storeCheck struct {
	t       *testing.T
	r       *replica
	marks   map[blockID]*mark
	covered map[blockID]bool
}

func (c *storeCheck) readMarks() {
	for _, e := range c.r.rowsUnder("/b") {
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
	raw := c.r.node.blocks[id.Cid()]
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

// cover goes down from a head, below which all must be complete, or a root.
func (c *storeCheck) cover(id blockID, head bool) {
	if c.covered[id] {
		return
	}
	m := c.marks[id]
	merged := m != nil && m.state.merged()
	if head && (!merged || m.state != complete || c.r.node.blocks[id.Cid()] == nil) {
		c.t.Errorf("block %s below a head is not complete or not here", id.Cid())
	}
	if !merged {
		return
	}
	c.covered[id] = true
	if b := c.block(id); b != nil {
		for _, link := range b.links {
			c.cover(link, head)
		}
	}
}

// checkPairs holds the records against the plain model, unless blocks were
// purged, and with them what the model would be built from.
func (c *storeCheck) checkPairs() {
	model := make(modelSet)
	for id, m := range c.marks {
		if m.state.merged() && c.block(id) == nil {
			return
		}
	}
	for id, m := range c.marks {
		if !m.state.merged() {
			continue
		}
		b := c.block(id)
		if !c.covered[id] && m.state != stranded {
			c.t.Errorf("merged block %s is not below any head or root", id.Cid())
		}
		model.merge(b)
	}
	got := make(map[string]string)
	for _, e := range c.r.rowsUnder("/s/r") {
		rec, err := decodeRecord(e.Value)
		if err != nil {
			c.t.Errorf("record %s: %s", e.Key, err)
			continue
		}
		got[e.Key[len(c.r.Datastore.store.keys.records):]] = string(rec.value)
	}
	if want := model.pairs(); !maps.Equal(got, want) {
		c.t.Errorf("the store holds %d records that differ from the %d pairs that its blocks amount to\nhas  %.500s\nwant %.500s", len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
	}
}

func (c *storeCheck) checkNothingWaits() {
	for _, prefix := range []string{"/q", "/p", "/w"} {
		if rows := c.r.rowsUnder(prefix); len(rows) > 0 {
			c.t.Errorf("%d rows are left under %s, such as %s", len(rows), prefix, rows[0].Key)
		}
	}
}

func anyStranded(marks map[blockID]*mark) bool {
	for _, m := range marks {
		if m.state == stranded || m.state == refused {
			return true
		}
	}
	return false
}

// A modelSet is compat.md §3 in the plainest form: all versions and all
// tombstones of the merged blocks.
type modelSet map[string]*modelKey

type modelKey struct {
	versions   map[blockID]version
	tombstones map[blockID]bool
}

func (m modelSet) key(k string) *modelKey {
	if m[k] == nil {
		m[k] = &modelKey{make(map[blockID]version), make(map[blockID]bool)}
	}
	return m[k]
}

func (m modelSet) merge(b *block) {
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

func (m modelSet) pairs() map[string]string {
	pairs := make(map[string]string)
	for key, k := range m {
		var best *version
		for id, v := range k.versions {
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
