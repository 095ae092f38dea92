package crdt

import (
	"crypto/rand"
	"fmt"
	"math"

	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

// A Delta is a change set: elements (keys with values) added and tombstones of
// versions removed. It travels as the data of a block. Most programs never
// see one; those that want to carry more than pairs implement their own and
// give NewMerkleCRDT a DeltaFactory.
//
// The datastore uses a Delta from one goroutine at a time and may keep what
// the getters return until the delta has been merged.
type Delta interface {
	// GetElements returns what the delta adds: keys in the form of
	// ds.Key.String and values; ids are empty.
	GetElements() ([]*pb.Element, error)
	// GetTombstones returns what the delta removes: versions, each named by a
	// key and the id of the block that introduced it.
	GetTombstones() ([]*pb.Element, error)
	// GetPriority returns the height of the delta's block in its DAG: from 1
	// to MaxInt64.
	GetPriority() uint64
	SetElements([]*pb.Element)
	SetTombstones([]*pb.Element)
	SetPriority(uint64)
	// Size returns the size in bytes of the marshalled delta, or an estimate.
	Size() int
	// GetDagName returns the name of the DAG that the block belongs to, ""
	// for the unnamed one.
	GetDagName() string
	SetDagName(string)
	// IsEmpty tells whether the delta changes nothing.
	IsEmpty() bool
	// Unmarshal reads bytes that may come from a hostile peer. It must not
	// keep them.
	Unmarshal([]byte) error
	// Marshal must give the same bytes for the same content.
	Marshal() ([]byte, error)
}

// maxPriority is the greatest height a block may have.
const maxPriority = math.MaxInt64

// pbDelta is the Delta on the wire.
type pbDelta struct{ msg pb.Delta }

func newPBDelta() Delta { return &pbDelta{} }

func (d *pbDelta) GetElements() ([]*pb.Element, error)   { return d.msg.GetElements(), nil }
func (d *pbDelta) GetTombstones() ([]*pb.Element, error) { return d.msg.GetTombstones(), nil }
func (d *pbDelta) GetPriority() uint64                   { return d.msg.GetPriority() }
func (d *pbDelta) SetElements(e []*pb.Element)           { d.msg.Elements = e }
func (d *pbDelta) SetTombstones(t []*pb.Element)         { d.msg.Tombstones = t }
func (d *pbDelta) SetPriority(p uint64)                  { d.msg.Priority = p }
func (d *pbDelta) Size() int                             { return proto.Size(&d.msg) }
func (d *pbDelta) GetDagName() string                    { return d.msg.GetDagName() }
func (d *pbDelta) SetDagName(name string)                { d.msg.DagName = name }
func (d *pbDelta) Unmarshal(b []byte) error              { return proto.Unmarshal(b, &d.msg) }
func (d *pbDelta) Marshal() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&d.msg)
}

func (d *pbDelta) IsEmpty() bool {
	return len(d.msg.GetElements()) == 0 && len(d.msg.GetTombstones()) == 0
}

// tagLength is the length of a tag in bytes.
const tagLength = 8

func randomTag() []byte {
	tag := make([]byte, tagLength)
	_, _ = rand.Read(tag) // never fails
	return tag
}

// tag makes a delta that adds elements differ from every other, and tells whether
// it did. A version is named by its block, and a tombstone must not remove the
// equal one of another writer, or one that is put later. Deltas of users' own
// types are theirs to tell apart.
func (s *blockStore) tag(d Delta) bool {
	ours, ok := d.(*pbDelta)
	if !ok {
		return false
	}
	ours.msg.Tag = nil
	if len(ours.msg.GetElements()) > 0 {
		ours.msg.Tag = s.newTag()
	}
	return ours.msg.Tag != nil
}

// A change set as the replica works with it: a Delta that has passed the
// rules below, taken apart once.
type deltaContent struct {
	from       Delta
	elements   []*pb.Element
	tombstones []*pb.Element
	priority   uint64
	dag        string
}

// checkDelta takes a delta apart and refuses it whole when it breaks a rule.
// All replicas apply the same rules, so that all refuse the same deltas.
func checkDelta(d Delta) (*deltaContent, error) {
	c := &deltaContent{from: d, priority: d.GetPriority(), dag: d.GetDagName()}
	if c.priority == 0 || c.priority > maxPriority {
		return nil, fmt.Errorf("priority %d is not between 1 and %d", c.priority, uint64(maxPriority))
	}
	if err := checkDAGName(c.dag); err != nil {
		return nil, err
	}
	var err error
	if c.elements, err = checkElements(d.GetElements()); err != nil {
		return nil, err
	}
	c.tombstones, err = checkElements(d.GetTombstones())
	return c, err
}

func checkElements(elements []*pb.Element, err error) ([]*pb.Element, error) {
	if err != nil {
		return nil, err
	}
	for _, e := range elements {
		if err := checkKey(e.GetKey()); err != nil {
			return nil, err
		}
	}
	return elements, nil
}

// elementSize is at least what an element takes in a marshalled delta: its
// fields, their tags and lengths.
func elementSize(key string, value []byte) int { return len(key) + len(value) + 16 }

// tombstoneSize is the same for a tombstone, whose id is a base32 multihash.
func tombstoneSize(key string) int { return len(key) + 72 }
