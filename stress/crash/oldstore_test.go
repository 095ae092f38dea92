package crash

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	"google.golang.org/protobuf/proto"
)

// An oldStore is what the released module would leave of a history: the rows of
// format 0 or 1, the blocks, and the pairs that it shows.
//
// The history has a trunk and two branches. The trunk puts every key, one branch
// overwrites some and deletes some, and the other puts some of the same keys,
// unseen by the first. Both end in a head.
type oldStore struct {
	rows   map[string][]byte // below the namespace
	blocks []ipld.Node
	pairs  map[string]string
	merged []string // keys with several live versions

	live map[string][]oldVersion
	dead map[string]bool // keys with tombstones
}

type oldVersion struct {
	block    string // its name in the store
	priority uint64
	value    string
}

// A tip is the end of a chain of blocks.
type tip struct {
	id     cid.Cid
	height uint64
}

const oldBlockKeys = 20 // of each block

func newOldStore(format, keys int, seed uint64) *oldStore {
	o := &oldStore{rows: make(map[string][]byte), pairs: make(map[string]string), live: make(map[string][]oldVersion), dead: make(map[string]bool)}
	rng := rand.New(rand.NewPCG(seed, uint64(keys)))
	trunk := tip{}
	for first := 0; first < keys; first += oldBlockKeys {
		trunk = o.grow(trunk, rng, func(i int) int { return first + i }, nil)
	}
	anyKey := func(int) int { return rng.IntN(keys) }
	one, other := trunk, trunk
	for range keys / oldBlockKeys / 4 {
		one = o.grow(one, rng, anyKey, func(i int) bool { return i%3 == 0 })
	}
	for range keys / oldBlockKeys / 4 {
		other = o.grow(other, rng, anyKey, nil)
	}
	o.addHead(one)
	o.addHead(other)
	o.elect(format)
	return o
}

func oldKey(i int) string {
	if i%2 == 0 {
		return fmt.Sprintf("/k%d", i)
	}
	return fmt.Sprintf("/k%d/below", i-1) // the other is its parent
}

// grow adds a block that puts keys, or deletes those that deletes tells.
func (o *oldStore) grow(on tip, rng *rand.Rand, key func(int) int, deletes func(int) bool) tip {
	d := &pb.Delta{Priority: on.height + 1}
	changed := make(map[string]bool)
	for i := range oldBlockKeys {
		k := oldKey(key(i))
		switch {
		case changed[k]: // at most once in a block
		case deletes != nil && deletes(i):
			for _, v := range o.live[k] {
				d.Tombstones = append(d.Tombstones, &pb.Element{Key: k, Id: "/" + v.block})
			}
		default:
			d.Elements = append(d.Elements, &pb.Element{Key: k, Value: []byte(fmt.Sprintf("%d %d", d.Priority, rng.IntN(100)))})
		}
		changed[k] = true
	}
	id := o.addBlock(d, on)
	o.merge(d, blockName(id))
	return tip{id, d.Priority}
}

func (o *oldStore) addBlock(d *pb.Delta, on tip) cid.Cid {
	data, err := proto.Marshal(d)
	if err != nil {
		panic(err)
	}
	n := merkledag.NodeWithData(data)
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(n.SetCidBuilder(cid.V1Builder{Codec: cid.DagProtobuf, MhType: 0x12}))
	if on.height > 0 {
		must(n.AddRawLink("", &ipld.Link{Cid: on.id}))
	}
	o.blocks = append(o.blocks, n)
	o.rows["/b/"+blockName(n.Cid())] = nil
	return n.Cid()
}

// blockName is the name of a block in the store.
func blockName(id cid.Cid) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id.Hash())
}

func (o *oldStore) merge(d *pb.Delta, block string) {
	for _, e := range d.Tombstones {
		id := e.Id[1:]
		o.rows["/s/t"+e.Key+"/"+id] = nil
		o.dead[e.Key] = true
		o.live[e.Key] = slices.DeleteFunc(o.live[e.Key], func(v oldVersion) bool { return v.block == id })
	}
	for _, e := range d.Elements {
		o.rows["/s/s"+e.Key+"/"+block] = nil
		o.live[e.Key] = append(o.live[e.Key], oldVersion{block, d.Priority, string(e.Value)})
	}
}

func (o *oldStore) addHead(t tip) {
	o.rows["/h/"+blockName(t.id)] = binary.AppendUvarint(nil, t.height)
}

// elect writes the rows of the winners. Format 0 may have wrong ones where there
// are tombstones.
func (o *oldStore) elect(format int) {
	if format > 0 {
		o.rows["/crdt_version"] = binary.AppendUvarint(nil, uint64(format)+1)
	}
	for k, versions := range o.live {
		if len(versions) == 0 {
			continue
		}
		win := slices.MaxFunc(versions, compareOld)
		o.pairs[k] = win.value
		if len(versions) > 1 {
			o.merged = append(o.merged, k)
		}
		if format == 0 && o.dead[k] {
			win = oldVersion{priority: 1 << 40, value: "wrong"}
		}
		o.rows["/s/k"+k+"/v"] = []byte(win.value)
		o.rows["/s/k"+k+"/p"] = binary.AppendUvarint(nil, win.priority+1)
	}
	slices.Sort(o.merged)
}

func compareOld(a, b oldVersion) int {
	switch {
	case a.priority < b.priority, a.priority == b.priority && a.value < b.value:
		return -1
	}
	return 1
}

// write makes a store of it.
func (o *oldStore) write(t *testing.T, kind, dir string) {
	t.Helper()
	ctx := context.Background()
	store, err := openStore(kind, dir)
	must(t, err)
	b, err := store.Batch(ctx)
	must(t, err)
	for k, v := range o.rows {
		must(t, b.Put(ctx, ds.RawKey(namespace.String()+k), v))
	}
	must(t, b.Commit(ctx))
	bs := blockstore.NewBlockstore(store)
	for _, n := range o.blocks {
		must(t, bs.Put(ctx, n))
	}
	must(t, store.Close())
}

// The generator's rows are those of the stores in testdata that the released
// module wrote; the pairs are checked against what another replica makes of the
// blocks, after every migration. This checks that it makes what it should.
func TestOldStoreHasAllCases(t *testing.T) {
	o := newOldStore(0, 2000, 1)
	wrong := 0
	for k := range o.pairs {
		if string(o.rows["/s/k"+k+"/v"]) == "wrong" {
			wrong++
		}
	}
	if len(o.merged) < 100 || len(o.pairs) > 1950 || wrong < 20 {
		t.Errorf("%d keys with several live versions, %d pairs, %d wrong winners", len(o.merged), len(o.pairs), wrong)
	}
}
