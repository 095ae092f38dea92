package crdt_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

// A signedDelta is a delta that says who wrote it. On the wire it is the
// writer's public key, the signature, and the delta as it would be without.
type signedDelta struct {
	pb.Delta
	secret ed25519.PrivateKey // of this replica
	writer ed25519.PublicKey  // set by Unmarshal
}

const signatureEnd = ed25519.PublicKeySize + ed25519.SignatureSize

var errBadSignature = errors.New("the signature is wrong")

// Marshal signs. An Ed25519 signature of the same bytes is always the same.
func (d *signedDelta) Marshal() ([]byte, error) {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(&d.Delta)
	if err != nil {
		return nil, err
	}
	public := d.secret.Public().(ed25519.PublicKey)
	signed := append([]byte{}, public...)
	signed = append(signed, ed25519.Sign(d.secret, content)...)
	return append(signed, content...), nil
}

// Unmarshal believes nothing before the signature has been checked.
func (d *signedDelta) Unmarshal(b []byte) error {
	if len(b) < signatureEnd {
		return errBadSignature
	}
	writer, signature, content := b[:ed25519.PublicKeySize], b[ed25519.PublicKeySize:signatureEnd], b[signatureEnd:]
	if !ed25519.Verify(writer, content, signature) {
		return errBadSignature
	}
	d.writer = append(ed25519.PublicKey{}, writer...)
	return proto.Unmarshal(content, &d.Delta)
}

func (d *signedDelta) Size() int                             { return signatureEnd + proto.Size(&d.Delta) }
func (d *signedDelta) IsEmpty() bool                         { return len(d.Elements)+len(d.Tombstones) == 0 }
func (d *signedDelta) GetElements() ([]*pb.Element, error)   { return d.Elements, nil }
func (d *signedDelta) GetTombstones() ([]*pb.Element, error) { return d.Tombstones, nil }
func (d *signedDelta) SetElements(e []*pb.Element)           { d.Elements = e }
func (d *signedDelta) SetTombstones(t []*pb.Element)         { d.Tombstones = t }
func (d *signedDelta) SetPriority(p uint64)                  { d.Priority = p }
func (d *signedDelta) SetDagName(name string)                { d.DagName = name }

// members accepts deltas that one of these keys signed. It must give the same
// answers on all replicas: with a list that grows, a replica that refused a
// delta too early does not get it later.
func members(keys ...ed25519.PublicKey) func(context.Context, crdt.Head, crdt.Delta) error {
	return func(_ context.Context, _ crdt.Head, delta crdt.Delta) error {
		d := delta.(*signedDelta)
		writer := d.writer
		if writer == nil { // written here
			writer = d.secret.Public().(ed25519.PublicKey)
		}
		for _, k := range keys {
			if k.Equal(writer) {
				return nil
			}
		}
		return fmt.Errorf("%x is no member", writer[:4])
	}
}

// openSigned opens a replica that signs with a key.
func openSigned(bcast crdt.Broadcaster, blocks *memoryDAG, secret ed25519.PrivateKey, opts *crdt.Options) *crdt.MerkleCRDT {
	db, err := crdt.NewMerkleCRDT(dssync.MutexWrap(ds.NewMapDatastore()), ds.NewKey("/crdt"), blocks, bcast, opts, &crdt.MerkleCRDTOptions{
		DeltaFactory: func() crdt.Delta { return &signedDelta{secret: secret} },
	})
	if err != nil {
		log.Fatal(err)
	}
	return db
}

// Only deltas that a member signed are merged. A signature is about a delta, not
// about its place in the DAG: whoever can announce can send one again, in a block of
// its own. It then is another version of the same keys, with the old priority.
func Example_signedDeltas() {
	key := func(seed byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed))
	}
	alice, bob, mallory := key(1), key(2), key(3)
	isMember := members(alice.Public().(ed25519.PublicKey), bob.Public().(ed25519.PublicKey))

	network, blocks := newBus(), &memoryDAG{}
	got, refused := make(chan string, 1), make(chan error, 1)
	opts := crdt.DefaultOptions()
	opts.PutHook = func(k ds.Key, v []byte) { got <- fmt.Sprintf("%s = %s", k, v) }
	opts.CheckDelta = func(ctx context.Context, h crdt.Head, d crdt.Delta) error {
		err := isMember(ctx, h, d)
		if err != nil {
			refused <- err
		}
		return err
	}
	atBob := openSigned(network.peer(), blocks, bob, opts)
	defer atBob.Close()

	ctx := context.Background()
	for _, writer := range []ed25519.PrivateKey{alice, mallory} {
		db := openSigned(network.peer(), blocks, writer, nil)
		defer db.Close()
		if err := db.Put(ctx, ds.NewKey("/motto"), []byte("be kind")); err != nil {
			log.Fatal(err)
		}
		select {
		case pair := <-got:
			fmt.Println("merged:", pair)
		case err := <-refused:
			fmt.Println("refused:", err)
		}
	}
	// Output:
	// merged: /motto = be kind
	// refused: f381626e is no member
}
