package crdt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	mh "github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/proto"
)

// A liar is a peer that says what it likes: its blocks are what their CIDs say,
// and otherwise anything. What it says all others hear.
type liar struct {
	t     *testing.T
	node  *testNode
	heard []*testNode
	made  int // numbers what it invents
	last  cid.Cid
	past  []cid.Cid
	chain int // blocks of its chains
}

// An attack is one way to lie, in small steps. A step may be taken again and
// again, among whatever else goes on.
type attack struct {
	name  string
	steps int // that show what it does
	step  func(l *liar, rng *rand.Rand)
}

func newLiar(t *testing.T, net *testNet, heard ...*testNode) *liar {
	return &liar{t: t, node: net.node(), heard: heard, last: unavailable(0)}
}

// maxInbox is how many messages the network keeps for a replica that is slow to
// take them, and how many bytes; a real one drops what is beyond that.
const (
	maxInbox      = 32
	maxInboxBytes = 8 << 20
)

func (node *testNode) hasRoom() bool {
	node.net.mu.Lock()
	defer node.net.mu.Unlock()
	size := 0
	for _, m := range node.inbox {
		size += len(m)
	}
	return len(node.inbox) < maxInbox && size < maxInboxBytes
}

// say sends a message, and waits for room for it if there are certain nodes that
// must hear it.
func (l *liar) say(message []byte) {
	if len(l.heard) == 0 {
		_ = l.node.Broadcast(ctx, message)
	}
	for _, node := range l.heard {
		waitFor(l.t, "room for a message", node.hasRoom)
		node.deliver(message)
	}
}

// next is a number that was not used before.
func (l *liar) next() int { l.made++; return l.made }

// nobodyHas is the CID of a block that never comes.
func (l *liar) nobodyHas() cid.Cid { return unavailable(l.next()) }

// forge makes a block and keeps it for those who ask.
func (l *liar) forge(data []byte, links ...cid.Cid) cid.Cid { return l.node.forge(l.t, data, links...) }

func (l *liar) block(d *pb.Delta, links ...cid.Cid) cid.Cid {
	return l.forge(marshalDelta(l.t, d), links...)
}

// forged reports whether a block comes from here.
func (l *liar) forged(id blockID) bool {
	l.node.net.mu.Lock()
	defer l.node.net.mu.Unlock()
	return l.node.blocks[id.Cid()] != nil
}

// offer forges a block and announces it.
func (l *liar) offer(d *pb.Delta, links ...cid.Cid) cid.Cid {
	c := l.block(d, links...)
	l.say(announcement(c))
	return c
}

// offerRaw does so with bytes that need not be a node's.
func (l *liar) offerRaw(raw []byte) cid.Cid {
	c, err := blockPrefix.Sum(raw)
	if err == nil {
		err = l.node.addRaw(c, raw)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.say(announcement(c))
	return c
}

// unlike is an element that no other block has.
func (l *liar) unlike() []*pb.Element { return oneElement(fmt.Sprint("/liar/", l.next())) }

// plain is a delta with nothing wrong.
func (l *liar) plain() *pb.Delta { return &pb.Delta{Priority: 1, Elements: l.unlike()} }

var attacks = []attack{
	{"escaping keys", 60, escapingKeys},
	{"foreign ids", 40, foreignIDs},
	{"huge priorities", 30, hugePriorities},
	{"endless chains", 60, endlessChains},
	{"heads that nobody has", 6, missingHeads},
	{"a million heads", 3, millionHeads},
	{"garbage", 40, garbage},
	{"50 MB of garbage", 4, hugeGarbage},
	{"2 MiB of tiny elements", 8, tinyElements},
	{"2 MiB of tombstones and links", 4, manyLinks},
	{"inline blocks that do not match", 40, inlineLies},
	{"links to blocks that never come", 30, linksToNothing},
	{"links to refused blocks", 30, linksToRefused},
	{"cycles in names", 40, cyclesInNames},
	{"other CIDs of a block", 30, otherCIDs},
	{"odd nodes", 60, oddNodes},
	{"tombstones of one key", 10, tombstonesOfOneKey},
	{"versions of one key", 10, versionsOfOneKey},
	{"named DAGs", 10, namedDAGs},
	{"independent heads", 10, independentHeads},
}

var badKeys = []string{
	"/../x", "//", "/a/../../b", "", "/", "a", "/a/", "/.", "/..", "/a/./b", "/a//b", "../x", "/a/..", "\x00",
	"/\x00", "/\n", "/s/t/x", "/crdt/h/x", "/../crdtx/s/r/k", "/%2F..%2F..%2Fx", "/" + testID(1).String(), "/b" + testID(1).dsKey(),
	"/" + strings.Repeat("x", MaxKeyLength-1), "/" + strings.Repeat("x", MaxKeyLength), strings.Repeat("/x", MaxKeyLength/2), strings.Repeat("/..", 1000),
	"/" + strings.Repeat("%", MaxKeyLength-1), "/QQQQ",
}

func escapingKeys(l *liar, rng *rand.Rand) {
	e := oneElement(pick(rng, badKeys...))
	d := &pb.Delta{Priority: 1 + rng.Uint64N(5), Elements: e}
	switch rng.IntN(4) {
	case 0:
		d.Elements, d.Tombstones = nil, []*pb.Element{{Key: e[0].Key, Id: pick(rng, foreign...)}}
	case 1:
		d.Elements = append(l.unlike(), e...) // one bad of two
	}
	data := bytes.ReplaceAll(marshalDelta(l.t, d), []byte("QQQQ"), []byte("\xff\xc0\x80\xfe")) // which is no UTF-8
	l.say(announcement(l.forge(data)))
}

// foreign are ids in tombstones that name no block, or none that was seen.
var foreign = []string{
	"", "/", "x", "/../../x", "/a/b/c", "/" + strings.ToLower(testID(1).String()), testID(1).String(), testID(1).dsKey() + "/" + testID(2).String(),
	"/" + unavailable(0).String(), testID(1).dsKey() + "\n", "/AAAA", "/" + strings.Repeat("A", 1<<10), "//" + testID(1).String(), testID(1).dsKey(), testID(2).dsKey(),
}

func foreignIDs(l *liar, rng *rand.Rand) {
	id := pick(rng, foreign...)
	if rng.IntN(3) == 0 {
		hash, err := mh.Sum([]byte(id), pick[uint64](rng, mh.SHA2_512, mh.IDENTITY, mh.SHA2_256, mh.SHA1), -1)
		if err != nil {
			l.t.Fatal(err)
		}
		id = "/" + base32Upper.EncodeToString(hash)
	}
	key := pick(rng, "/liar/tombstones", "/liar/tombstones/"+testID(1).String())
	l.offer(&pb.Delta{Priority: 1, Elements: l.unlike(), Tombstones: []*pb.Element{{Key: key, Id: id}, {Key: key, Id: id}}})
}

func hugePriorities(l *liar, rng *rand.Rand) {
	p := pick[uint64](rng, 0, math.MaxInt64, math.MaxInt64-1, 1<<63, math.MaxUint64, 1<<62)
	l.offer(&pb.Delta{Priority: p, DagName: pick(rng, "", "", "high"), Elements: oneElement(pick(rng, "/liar/high", fmt.Sprint("/liar/", l.next())))})
}

// endlessChains adds to a chain that grows as long as it is asked for. Its first
// block links to one that never comes, and in every other chain to none. A
// chain cannot grow downward while it is read: a link is a hash.
func endlessChains(l *liar, rng *rand.Rand) {
	const links = 50
	l.node.net.mu.Lock()
	behind := l.node.served < l.chain-4*links
	l.node.net.mu.Unlock()
	if behind {
		return // nobody asks
	}
	var below []cid.Cid
	if rng.IntN(2) == 0 {
		below = []cid.Cid{l.last}
	}
	for i := range uint64(links) {
		below = []cid.Cid{l.block(&pb.Delta{Priority: uint64(l.chain) + i + 1, Elements: l.unlike()}, below...)}
	}
	l.chain += links
	l.last = below[0]
	l.say(announcement(l.last))
}

func missingHeads(l *liar, _ *rand.Rand) {
	heads := make([]cid.Cid, maxHeadsPerMessage)
	for i := range heads {
		heads[i] = l.nobodyHas()
	}
	l.say(announcement(heads...))
}

// A million heads in one message: of nothing, of one block, or of as many.
func millionHeads(l *liar, rng *rand.Rand) {
	const million = 1_000_000
	head := []byte{0x0a, 0}
	kind := l.next() % 3
	if kind > 0 {
		head = announcement(unavailable(rng.IntN(10)))
	}
	message := bytes.Repeat(head, million)
	if kind == 2 {
		for i := range million { // the end of each digest
			binary.LittleEndian.PutUint32(message[(i+1)*len(head)-4:], uint32(i))
		}
	}
	l.say(message)
}

func garbage(l *liar, rng *rand.Rand) {
	random := randomBytes(rng, 1+rng.IntN(4<<10))
	switch rng.IntN(5) {
	case 0:
		l.say(random)
	case 1:
		l.say(append(announcement(l.nobodyHas()), random...))
	case 2:
		l.offerRaw(random)
	case 3:
		l.say(announcement(l.forge(random)))
	case 4:
		valid := announceInline(unavailable(1), random)
		valid[rng.IntN(len(valid))] ^= byte(1 + rng.IntN(255))
		l.say(valid)
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:i+8:cap(b)], rng.Uint64())
	}
	return b
}

func hugeGarbage(l *liar, rng *rand.Rand) {
	random := bytes.Repeat(randomBytes(rng, 1<<20), 50)
	switch l.next() % 4 {
	case 0:
		l.say(random)
	case 1:
		l.say(announceInline(l.nobodyHas(), random))
	case 2:
		l.say(bytes.Repeat([]byte{0x0a}, len(random)))
	case 3:
		l.say(append(announcement(l.nobodyHas()), random...))
	}
}

// largest is a block's size less its frame.
const largest = 2<<20 - 64

// A delta of as many elements as fit a block, each of a few bytes, written by
// hand: the library of protobuf would take long.
func tinyElements(l *liar, rng *rand.Rand) {
	elements := [][]byte{
		{0x0a, 4, 0x0a, 2, '/', 'a'},           // keys of a byte
		{0x0a, 6, 0x0a, 4, '/', 'a', 'a', 'a'}, // of three
		{0x12, 4, 0x0a, 2, '/', 'a'},           // tombstones without an id
		{0x0a, 0},                              // nothing, to be left out
		{0x0a, 4, 0x0a, 2, '/', 'a'},
	}
	e := elements[l.next()%len(elements)]
	data := append([]byte{0x18, 1}, bytes.Repeat(e, (largest-8)/len(e))...)
	for i := 2; i < len(data) && len(e) > 2; i += len(e) {
		for j := i + 5; j < i+len(e); j++ {
			data[j] = byte('a' + rng.IntN(26))
		}
	}
	l.say(announcement(l.forge(data)))
}

// manyLinks makes a block of tombstones that match nothing, or of links that
// lead nowhere.
func manyLinks(l *liar, _ *rand.Rand) {
	d := l.plain()
	if l.next()%2 == 0 {
		l.offer(d, l.missing(largest/linkSize)...)
		return
	}
	const size = 1 + 1 + 4 + 2 + 56 + 2
	for range largest / size {
		d.Tombstones = append(d.Tombstones, &pb.Element{Key: "/t", Id: testIDOf(l.next()).dsKey()})
	}
	l.offer(d)
}

func (l *liar) missing(n int) []cid.Cid {
	links := make([]cid.Cid, n)
	for i := range links {
		links[i] = l.nobodyHas()
	}
	return links
}

func inlineLies(l *liar, rng *rand.Rand) {
	good, other := l.block(l.plain()), l.block(l.plain())
	bad := l.block(&pb.Delta{Priority: 1, DagName: "..", Elements: l.unlike()})
	switch rng.IntN(5) {
	case 0:
		l.say(announceInline(good, l.node.blocks[other]))
	case 1:
		l.say(announceInline(l.nobodyHas(), l.node.blocks[other]))
	case 2:
		l.say(announceInline(bad, l.node.blocks[bad]))
	case 3: // bytes that are no node, and are what the CID says
		raw := randomBytes(rng, 100)
		c, _ := blockPrefix.Sum(raw)
		l.say(announceInline(c, raw))
	case 4: // a whole block and more
		huge := l.block(&pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/liar/huge", Value: randomBytes(rng, pick(rng, 100<<10, 3<<20))}}})
		l.say(announceInline(huge, l.node.blocks[huge]))
	}
}

func linksToNothing(l *liar, rng *rand.Rand) {
	d := l.plain()
	d.Priority = 2 + rng.Uint64N(50)
	l.offer(d, l.missing(1+rng.IntN(50))...)
}

func linksToRefused(l *liar, rng *rand.Rand) {
	bad := []cid.Cid{
		l.block(&pb.Delta{Priority: 1, DagName: "..", Elements: l.unlike()}),
		l.forge(randomBytes(rng, 100)),
	}
	links := append(bad[rng.IntN(len(bad)):], l.block(l.plain()))
	if rng.IntN(2) == 0 {
		links = append(links, l.nobodyHas())
	}
	middle := l.block(&pb.Delta{Priority: 2, Elements: l.unlike()}, links...)
	l.offer(&pb.Delta{Priority: 3, Elements: l.unlike()}, middle)
}

// dagNames name DAGs like paths, rows and blocks.
var dagNames = []string{
	"", "x", "y", ".", "..", "a/b", "/", "h", "s", "b", "q", "crdt_version", "../crdtx", "%2F", "\x00", testID(1).String(),
	strings.Repeat("n", maxDAGNameLength), strings.Repeat("n", maxDAGNameLength+1), unavailable(1).String(),
}

// cyclesInNames makes a block of one DAG on top of one of another, that on top
// of one of the first, and announces it by yet another name.
func cyclesInNames(l *liar, rng *rand.Rand) {
	d := l.plain()
	d.Priority, d.DagName = 1+rng.Uint64N(4), pick(rng, dagNames...)
	var links []cid.Cid
	for range min(len(l.past), rng.IntN(3)) {
		links = append(links, pick(rng, l.past...))
	}
	c := l.block(d, links...)
	if checkDAGName(d.DagName) == nil {
		l.past = append(l.past, c)
	}
	message, err := proto.Marshal(&pb.CRDTBroadcast{Heads: []*pb.Head{
		{Cid: c.Bytes(), DagName: pick(rng, dagNames...)}, {Cid: c.Bytes(), DagName: pick(rng, dagNames...)},
	}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.say(message)
}

// otherCIDs names a block in ways that blocks are not named.
func otherCIDs(l *liar, rng *rand.Rand) {
	c := l.block(l.plain())
	raw := l.node.blocks[c]
	long, err := mh.Sum(raw, mh.SHA2_512, -1)
	if err != nil {
		l.t.Fatal(err)
	}
	identity, err := mh.Sum(raw, mh.IDENTITY, -1)
	if err != nil {
		l.t.Fatal(err)
	}
	other := pick(rng, cid.NewCidV0(c.Hash()), cid.NewCidV1(cid.Raw, c.Hash()), cid.NewCidV1(cid.DagCBOR, c.Hash()), cid.NewCidV1(cid.DagProtobuf, long), cid.NewCidV1(cid.DagProtobuf, identity))
	switch rng.IntN(4) {
	case 0:
		l.say(announcement(other, c, other))
	case 1:
		l.say(other.Bytes())
	case 2:
		l.say(announceInline(other, raw))
	case 3:
		l.offer(&pb.Delta{Priority: 2, Elements: l.unlike()}, other, c)
	}
}

// oddNodes writes nodes as no encoder does.
func oddNodes(l *liar, rng *rand.Rand) {
	data := marshalDelta(l.t, l.plain())
	field := func(tag byte, b []byte) []byte {
		return append(append([]byte{tag}, binary.AppendUvarint(nil, uint64(len(b)))...), b...)
	}
	link := func(c cid.Cid, name string) []byte {
		return field(0x12, append(append(field(0x0a, c.Bytes()), field(0x12, []byte(name))...), 0x18, 0))
	}
	good, plain := field(0x0a, data), l.block(l.plain())
	ordinary := link(plain, "")
	nodes := [][][]byte{
		{ordinary, ordinary, good},                              // a link twice
		{link(plain, "z"), link(l.block(l.plain()), "a"), good}, // unsorted
		{link(plain, skipLink), ordinary, good},                 // a skip link first
		{bytes.Repeat(link(plain, skipLink), 100), good},        // many
		{good, ordinary},                                  // data first
		{good, ordinary, good},                            // data twice
		{good, {0}}, {good, {0x0a}}, {good, {0x7a, 1, 0}}, // more behind it
		{{0x0a, byte(len(data)) | 0x80, 0}, data},                    // a length in more bytes than it takes
		{{0x12, 0}, good},                                            // a link without a hash
		{field(0x12, field(0x0a, []byte{1, 2, 3})), good},            // and with no CID in it
		{field(0x12, field(0x0a, field(0x0a, plain.Bytes()))), good}, // likewise
		{ordinary}, {field(0x0a, nil)}, {}, // no data
		{field(0x0a, append(bytes.Clone(data), 0x18, 2))},         // a priority twice
		{field(0x0a, append(bytes.Clone(data), 0xfa, 1, 1, 'x'))}, // a field that nobody knows
	}
	l.offerRaw(bytes.Join(nodes[rng.IntN(len(nodes))], nil))
}

// tombstonesOfOneKey removes versions from before they are there; every now and
// then one comes.
func tombstonesOfOneKey(l *liar, _ *rand.Rand) {
	version := l.block(&pb.Delta{Priority: 1, Elements: append(l.unlike(), oneElement("/liar/removed")...)})
	id, err := blockIDOf(version)
	if err != nil {
		l.t.Fatal(err)
	}
	d := l.plain()
	for range 500 {
		d.Tombstones = append(d.Tombstones, &pb.Element{Key: "/liar/removed", Id: testIDOf(l.next()).dsKey()})
	}
	d.Tombstones = append(d.Tombstones, &pb.Element{Key: "/liar/removed", Id: id.dsKey()})
	l.offer(d)
	l.say(announcement(version))
}

// versionsOfOneKey adds versions of equal priority, and removes the best ones:
// which is next stands in the blocks of all others.
func versionsOfOneKey(l *liar, rng *rand.Rand) {
	var heads []cid.Cid
	for range 100 {
		value := randomBytes(rng, 20)
		heads = append(heads, l.block(&pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/liar/contested", Value: value}}}))
	}
	l.say(announcement(heads...))
	d := l.plain()
	for _, c := range append(l.past, heads[:50]...) {
		id, err := blockIDOf(c)
		if err != nil {
			l.t.Fatal(err)
		}
		d.Tombstones = append(d.Tombstones, &pb.Element{Key: "/liar/contested", Id: id.dsKey()})
	}
	l.past = heads[50:]
	l.offer(d)
}

func namedDAGs(l *liar, _ *rand.Rand) {
	var heads []cid.Cid
	for range 200 {
		d := l.plain()
		d.DagName = fmt.Sprint("dag-", l.next())
		heads = append(heads, l.block(d))
	}
	l.say(announcement(heads...))
}

func independentHeads(l *liar, _ *rand.Rand) {
	var heads []cid.Cid
	for range 200 {
		heads = append(heads, l.block(l.plain()))
	}
	l.say(announcement(heads...))
}
