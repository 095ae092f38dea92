package crdt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
	"google.golang.org/protobuf/proto"
)

// A testNet joins replicas: it carries broadcasts and blocks between those in
// the same part of the network, badly if asked to.
type testNet struct {
	netFaults
	seed    uint64             // of what happens at random; set before the nodes are made
	archive map[cid.Cid][]byte // every block that was ever added, if it is not nil

	mu      sync.Mutex
	nodes   []*testNode
	changed chan struct{} // closed when a link or the weather has changed
	waiting map[cid.Cid]*blockWait
	delay   time.Duration // of every request for a block
	last    []byte        // the last message
}

// netFaults say how bad a network is: how likely something goes wrong, and how
// long something takes at most.
type netFaults struct {
	drop, duplicate, reorder, corrupt float64       // of broadcasts, for each that hears them
	refuse                            float64       // Broadcast fails, and has sent the message or not
	latency                           time.Duration // of broadcasts

	slow    time.Duration // of requests for blocks
	fail    float64       // a request fails
	garble  float64       // a request gets other bytes, or nothing
	hang    float64       // a request gets nothing until its context ends, or the network heals
	lack    float64       // for a node, nobody else has a certain block for a while
	lackFor time.Duration
	addFail float64       // a block cannot be added
	addSlow time.Duration // to add a block takes that long
}

var (
	errUnsent  = errors.New("the network has failed")
	errNoBlock = errors.New("the DAG service has failed")
)

// A blockWait is what those wait for who have asked for a block in vain.
type blockWait struct {
	come chan struct{} // closed when the block or a link may have come
	n    int           // who wait
}

func newTestNet() *testNet {
	return &testNet{seed: 1, changed: make(chan struct{}), waiting: make(map[cid.Cid]*blockWait)}
}

func (n *testNet) waitLocked(c cid.Cid) *blockWait {
	if n.waiting[c] == nil {
		n.waiting[c] = &blockWait{come: make(chan struct{})}
	}
	n.waiting[c].n++
	return n.waiting[c]
}

func (n *testNet) stopWaiting(c cid.Cid, w *blockWait) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.n--; w.n == 0 && n.waiting[c] == w {
		delete(n.waiting, c)
	}
}

func (n *testNet) signal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signalLocked()
}

func (n *testNet) signalLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
	for c := range n.waiting {
		n.cameLocked(c)
	}
}

func (n *testNet) cameLocked(c cid.Cid) {
	if w := n.waiting[c]; w != nil {
		close(w.come)
		delete(n.waiting, c)
	}
}

// A testNode is one replica's end of the network: its Broadcaster and its
// DAG service, which keeps blocks as their raw bytes.
type testNode struct {
	net    *testNet
	rand   *rand.Rand // its own, so that what befalls a node depends on little else
	part   int        // nodes of the same part reach each other
	gone   bool       // has left for ever
	sound  bool       // its own DAG service does not fail
	blocks map[cid.Cid][]byte
	lacks  map[cid.Cid]time.Time // until then nobody else has the block
	inbox  [][]byte
	wake   chan struct{}

	requests, sent int
	served         int       // blocks given to others
	size           int       // of the blocks that came from here, the inbox and the messages, in bytes
	messages       [][]byte  // sent
	own            []cid.Cid // added one by one: blocks that were made here
	addError       error
}

// blockOverhead is about what the maps take for a block.
const blockOverhead = 120

func (n *testNet) node() *testNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := &testNode{
		net:    n,
		rand:   rand.New(rand.NewPCG(n.seed, uint64(len(n.nodes)))),
		blocks: make(map[cid.Cid][]byte),
		lacks:  make(map[cid.Cid]time.Time),
		wake:   make(chan struct{}, 1),
	}
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
	n.weather(netFaults{})
	n.split()
}

// weather replaces all faults.
func (n *testNet) weather(f netFaults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.netFaults = f
	n.signalLocked()
}

func (node *testNode) chance(p float64) bool { return p > 0 && node.rand.Float64() < p }

func (node *testNode) Broadcast(_ context.Context, data []byte) error {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	node.sent++
	node.messages = append(node.messages, data)
	node.size += len(data)
	refused := node.chance(n.refuse)
	if refused && node.chance(0.5) {
		return errUnsent
	}
	for _, to := range n.nodes {
		if to != node && node.reaches(to) {
			n.sendLocked(node, to, data)
		}
	}
	n.last = data
	if refused {
		return errUnsent
	}
	return nil
}

func (node *testNode) reaches(other *testNode) bool {
	return node.part == other.part && !node.gone && !other.gone
}

func (n *testNet) sendLocked(from, to *testNode, data []byte) {
	if from.chance(n.drop) {
		return
	}
	copies := 1
	if from.chance(n.duplicate) {
		copies++
	}
	for range copies {
		message := slices.Clone(data)
		if from.chance(n.corrupt) {
			message = from.spoil(message)
		}
		if n.latency == 0 {
			n.arriveLocked(to, message)
			continue
		}
		time.AfterFunc(1+time.Duration(from.rand.Int64N(int64(n.latency))), func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.arriveLocked(to, message)
		})
	}
}

// spoil changes a message: one byte, its length, or what it is about.
func (node *testNode) spoil(data []byte) []byte {
	if len(data) == 0 {
		return data
	}
	at := node.rand.IntN(len(data))
	switch other := node.net.last; node.rand.IntN(4) {
	case 0:
		return data[:at]
	case 1:
		return slices.Concat(data[:at], other[min(at, len(other)):])
	case 2:
		return slices.Clone(other)
	}
	data[at] ^= byte(1 + node.rand.IntN(255))
	return data
}

func (n *testNet) arriveLocked(to *testNode, message []byte) {
	to.inbox = append(to.inbox, message)
	to.size += len(message)
	if to.chance(n.reorder) {
		to.rand.Shuffle(len(to.inbox), func(i, j int) { to.inbox[i], to.inbox[j] = to.inbox[j], to.inbox[i] })
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
	node.net.sendLocked(node, node, data)
}

func (node *testNode) Next(ctx context.Context) ([]byte, error) {
	for {
		node.net.mu.Lock()
		if len(node.inbox) > 0 {
			data := node.inbox[0]
			node.inbox[0] = nil
			node.inbox = node.inbox[1:]
			node.size -= len(data)
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

// Get waits until the block can be had, as bitswap does, if nothing else
// happens to the request.
func (node *testNode) Get(ctx context.Context, c cid.Cid) (ipld.Node, error) {
	f := node.request(c)
	if err := f.suffer(ctx, node.net); err != nil {
		return nil, err
	}
	for {
		raw, wait, nowhere := node.find(c)
		switch {
		case nowhere:
			return nil, errNoBlock
		case raw != nil && f.garble:
			return node.garbled(c, raw), nil
		case raw != nil:
			return newRawNode(c, raw), nil
		}
		select {
		case <-wait.come:
		case <-ctx.Done():
			node.net.stopWaiting(c, wait)
			return nil, ctx.Err()
		}
	}
}

// A fate is what becomes of a request for a block.
type fate struct {
	delay              time.Duration
	fail, garble, hang bool
}

func (node *testNode) request(c cid.Cid) fate {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	node.requests++
	f := fate{delay: n.delay, fail: node.chance(n.fail), garble: node.chance(n.garble), hang: node.chance(n.hang)}
	if n.slow > 0 {
		f.delay += time.Duration(node.rand.Int64N(int64(n.slow)))
	}
	if _, asked := node.lacks[c]; !asked && node.chance(n.lack) {
		node.lacks[c] = time.Now().Add(n.lackFor)
		time.AfterFunc(n.lackFor, n.signal)
	}
	return f
}

// suffer waits as long as a request takes, and fails if it is to fail.
func (f fate) suffer(ctx context.Context, n *testNet) error {
	if err := pause(ctx, f.delay); err != nil {
		return err
	}
	for f.hang && n.hangs() {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.fail {
		return errNoBlock
	}
	return nil
}

func (n *testNet) hangs() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hang > 0
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find returns a block, or what tells that it may be worth looking again. In a
// healthy network with an archive it knows when it is not.
func (node *testNode) find(c cid.Cid) (raw []byte, wait *blockWait, nowhere bool) {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if raw := node.blocks[c]; raw != nil {
		return raw, nil, false
	}
	if n.lack > 0 && time.Now().Before(node.lacks[c]) {
		return nil, n.waitLocked(c), false
	}
	for _, from := range n.nodes {
		if raw := from.blocks[c]; raw != nil && node.reaches(from) {
			from.served++
			node.blocks[c] = raw
			node.size += blockOverhead
			return raw, nil, false
		}
	}
	if n.archive != nil && n.archive[c] == nil && n.netFaults == (netFaults{}) {
		return nil, nil, true
	}
	return nil, n.waitLocked(c), false
}

// garbled returns what is not the block that was asked for.
func (node *testNode) garbled(c cid.Cid, raw []byte) ipld.Node {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	if len(raw) == 0 || node.chance(0.2) {
		return nil
	}
	raw = slices.Clone(raw)
	raw[node.rand.IntN(len(raw))]++
	return newRawNode(c, raw)
}

// rawNode has bytes that need not be those of a dag-pb node.
type rawNode struct {
	ipld.Node
	raw []byte
	cid cid.Cid
}

func newRawNode(c cid.Cid, raw []byte) *rawNode {
	nd, err := merkledag.DecodeProtobuf(raw)
	if err != nil {
		nd = merkledag.NodeWithData(nil)
	}
	return &rawNode{Node: nd, raw: raw, cid: c}
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
	if err := pause(ctx, node.timeToAdd()); err != nil {
		return err
	}
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	if err := node.addLocked(nd.Cid(), nd.RawData()); err != nil {
		return err
	}
	node.own = append(node.own, nd.Cid())
	return nil
}

// made is how many blocks have been added.
func (node *testNode) made() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return len(node.own)
}

func (node *testNode) madeSince(n int) []cid.Cid {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return slices.Clone(node.own[n:])
}

func (node *testNode) timeToAdd() time.Duration {
	n := node.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addSlow == 0 || node.sound {
		return 0
	}
	return time.Duration(node.rand.Int64N(int64(n.addSlow)))
}

func (node *testNode) addRaw(c cid.Cid, raw []byte) error {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return node.addLocked(c, raw)
}

func (node *testNode) addLocked(c cid.Cid, raw []byte) error {
	if node.addError != nil {
		return node.addError
	}
	if !node.sound && node.chance(node.net.addFail) {
		return errNoBlock
	}
	node.blocks[c] = raw
	if node.net.archive != nil {
		node.net.archive[c] = raw
	}
	node.size += len(raw) + blockOverhead
	node.net.cameLocked(c)
	return nil
}

// raw returns a block that is here, by whichever CID.
func (node *testNode) raw(id blockID) []byte {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	if raw := node.blocks[id.Cid()]; raw != nil {
		return raw
	}
	return node.blocks[link{id, true}.Cid()]
}

func (node *testNode) AddMany(_ context.Context, nds []ipld.Node) error {
	for _, nd := range nds {
		if err := node.addRaw(nd.Cid(), nd.RawData()); err != nil {
			return err
		}
	}
	return nil
}

func (node *testNode) Remove(_ context.Context, c cid.Cid) error {
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

func announcement(cids ...cid.Cid) []byte {
	msg := &pb.CRDTBroadcast{}
	for _, c := range cids {
		msg.Heads = append(msg.Heads, &pb.Head{Cid: c.Bytes()})
	}
	b, err := proto.Marshal(msg)
	if err != nil {
		panic(err)
	}
	return b
}

// announceInline announces a block with bytes that are said to be its own.
func announceInline(c cid.Cid, raw []byte) []byte {
	b, err := proto.Marshal(&pb.CRDTBroadcast{Heads: []*pb.Head{{Cid: c.Bytes(), Block: raw}}})
	if err != nil {
		panic(err)
	}
	return b
}

// unavailable returns the CID of a block that nobody has.
func unavailable(i int) cid.Cid {
	c, err := blockPrefix.Sum([]byte(fmt.Sprint("nobody has this", i)))
	if err != nil {
		panic(err)
	}
	return c
}

func unavailables(n int) (cids []cid.Cid) {
	for i := range n {
		cids = append(cids, unavailable(i))
	}
	return cids
}

// asked tells how many blocks a node has been asked for.
func (node *testNode) asked() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return node.requests
}

// given tells how many blocks others have got from a node.
func (node *testNode) given() int {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	return node.served
}

// hide takes blocks away from a node, until show is called.
func (node *testNode) hide(t *testing.T, cids ...cid.Cid) (show func()) {
	hidden := make(map[cid.Cid][]byte)
	for _, c := range cids {
		hidden[c] = node.blocks[c]
		if err := node.Remove(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for c, raw := range hidden {
			if err := node.addRaw(c, raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}
