package crdt

import (
	"crypto/rand"
	"fmt"
	"math"
	"slices"

	ds "github.com/ipfs/go-datastore"
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
	// GetElements returns what the delta adds: keys, which are cleaned as
	// ds.NewKey does, and values; ids are empty.
	GetElements() ([]*pb.Element, error)
	// GetTombstones returns what the delta removes: versions, each named by a
	// key and the id of the block that introduced it.
	GetTombstones() ([]*pb.Element, error)
	// GetPriority returns the height of the delta's block in its DAG: from 1
	// to MaxInt64 if it is made here, and anything in a block of a peer.
	GetPriority() uint64
	// SetElements and SetTombstones are also called when keys had to be
	// cleaned, or elements left out, with what remains.
	SetElements([]*pb.Element)
	SetTombstones([]*pb.Element)
	SetPriority(uint64)
	// Size returns the size in bytes of the marshalled delta, or an estimate.
	Size() int
	// GetDagName returns the name of the DAG that the block belongs to, ""
	// for the unnamed one.
	GetDagName() string
	SetDagName(string)
	// IsEmpty reports whether the delta changes nothing.
	IsEmpty() bool
	// Unmarshal reads bytes that may come from a hostile peer. It must not
	// keep them.
	Unmarshal([]byte) error
	// Marshal must give the same bytes for the same content.
	Marshal() ([]byte, error)
}

// maxPriority is the greatest priority that a block is given here. Peers may give
// any: old ones add 1 to whatever a head claims, and were this to be refused, one
// block of the greatest priority would strand all that they write.
const maxPriority = math.MaxInt64

// above returns the next greater priority, as far as blocks are given it here.
func above(priority uint64) uint64 { return min(priority, maxPriority-1) + 1 }

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
func (d *pbDelta) GetSnapshot() bool                     { return d.msg.GetSnapshot() }
func (d *pbDelta) GetCheckpoint() *pb.Checkpoint         { return d.msg.GetCheckpoint() }
func (d *pbDelta) setCheckpoint(n *snapshotName)         { d.msg.Checkpoint = n.message() }
func (d *pbDelta) GetDagName() string                    { return d.msg.GetDagName() }
func (d *pbDelta) SetDagName(name string)                { d.msg.DagName = name }
func (d *pbDelta) Marshal() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&d.msg)
}

// Unmarshal reads a delta of any peer. To old peers the field of checkpoints is not
// known, whatever it holds: to refuse a delta for it would strand what they build on it.
func (d *pbDelta) Unmarshal(b []byte) error {
	err := proto.Unmarshal(b, &d.msg)
	if err != nil {
		err = proto.Unmarshal(withoutField(b, checkpointField), &d.msg)
	}
	return err
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

// tag makes a delta that adds elements differ from every other, and reports whether
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

// A deltaContent is a Delta taken apart, once, by the rules below.
type deltaContent struct {
	from       Delta
	elements   []*pb.Element // all keys are clean
	tombstones []*pb.Element // likewise
	summary    bool
	snapshot   *snapshotName // of a checkpoint; nil: it is none
	claims     []*pb.Element // of a summary, in the place of elements
	changed    bool          // they are not those that the Delta had
	void       int           // how many of either were left out
	fault      error         // of the first of these
	priority   uint64
	dagName    string
}

// takeApart reads a delta. Keys are cleaned as ds.NewKey does. An element or
// tombstone of a key that can hold no value is void: it is left out, and the rest
// counts. Old peers build on what they take, so to refuse its block would strand
// all their history.
func takeApart(d Delta) (*deltaContent, error) {
	c := &deltaContent{from: d, priority: d.GetPriority(), dagName: d.GetDagName()}
	elements, err := d.GetElements()
	if err != nil {
		return nil, err
	}
	tombstones, err := d.GetTombstones()
	if err != nil {
		return nil, err
	}
	c.elements, c.tombstones = c.clean(elements), c.clean(tombstones)
	c.readClaims()
	c.readSnapshot()
	return c, nil
}

// accept refuses a delta whole when it breaks a rule. All replicas apply the same
// rules, so that all refuse the same deltas.
func (c *deltaContent) accept() error {
	if err := checkDAGName(c.dagName); err != nil {
		return err
	}
	c.giveBack()
	return nil
}

// checkOwnDelta is for a delta that was made here: none of it may be void.
func checkOwnDelta(d Delta) (*deltaContent, error) {
	c, err := takeApart(d)
	if err == nil {
		err = c.fault
	}
	if err == nil {
		err = c.accept()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidBlock, err)
	}
	return c, nil
}

// giveBack puts clean keys into the Delta itself: then Options.CheckDelta judges
// the keys that are merged, and a block that is made here has clean ones.
func (c *deltaContent) giveBack() {
	if c.changed {
		c.from.SetElements(append(c.elements, c.claims...)) // one of them is empty
		c.from.SetTombstones(c.tombstones)
	}
}

// clean returns elements with clean keys. It changes none in place: they belong
// to the Delta.
func (c *deltaContent) clean(all []*pb.Element) []*pb.Element {
	first := slices.IndexFunc(all, func(e *pb.Element) bool { return !isKey(e.GetKey()) })
	if first < 0 {
		return all
	}
	c.changed = true
	kept := slices.Clone(all[:first])
	for _, e := range all[first:] {
		switch key := ds.NewKey(e.GetKey()).String(); {
		case !holdsValue(key):
			c.leaveOut(key)
		case key == e.GetKey():
			kept = append(kept, e)
		default:
			e = proto.CloneOf(e)
			e.Key = key
			kept = append(kept, e)
		}
	}
	return kept
}

// leaveOut counts an element that is void. There may be a million of them.
func (c *deltaContent) leaveOut(key string) {
	c.void++
	if c.fault == nil {
		_, c.fault = cleanKey(key)
	}
}

// elementSize is at least what an element takes in a marshalled delta: its
// fields, their tags and lengths.
func elementSize(key string, value []byte) int { return len(key) + len(value) + 16 }

// tombstoneSize is the same for a tombstone, whose id is a base32 multihash.
func tombstoneSize(key string) int { return len(key) + 72 }
