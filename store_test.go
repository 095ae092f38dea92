package crdt

import (
	"context"
	"reflect"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/proto"
)

func testKeyspace(t *testing.T) *keyspace {
	names, err := InternalNamespaces{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	return newKeyspace(testNamespace, names)
}

// Redo rows are read that were written as the delta they look like.
func TestRedoRowHasTheShapeOfADelta(t *testing.T) {
	keys := testKeyspace(t)
	rows := []row{
		{key: keys.record("/a"), value: []byte("1")},
		{key: keys.record("/b"), value: []byte{}},
		{key: keys.record("/c"), remove: true},
	}
	delta := pb.Delta{
		Elements:   []*pb.Element{{Key: "/crdt/s/r/a", Value: []byte("1")}, {Key: "/crdt/s/r/b"}},
		Tombstones: []*pb.Element{{Key: "/crdt/s/r/c"}},
	}
	old, err := proto.Marshal(&delta)
	if err != nil {
		t.Fatal(err)
	}
	var read pb.Delta
	if err := proto.Unmarshal(encodeRedo(rows), &read); err != nil || !proto.Equal(&read, &delta) {
		t.Errorf("written as %v (%v)", &read, err)
	}
	for _, redo := range [][]byte{old, encodeRedo(rows)} {
		got, err := keys.decodeRedo(redo)
		if err != nil || len(got) != len(rows) {
			t.Fatalf("%d rows: %v", len(got), err)
		}
		for i, r := range got {
			if r.key != rows[i].key || string(r.value) != string(rows[i].value) || r.remove != rows[i].remove {
				t.Errorf("row %d is %v, want %v", i, r, rows[i])
			}
		}
	}
	for _, bad := range []*pb.Element{{Key: "/elsewhere"}, {Key: "crdt"}, {}, {Key: "/crdt/s/"}} {
		damaged, err := proto.Marshal(&pb.Delta{Tombstones: []*pb.Element{bad}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := keys.decodeRedo(damaged); err == nil {
			t.Errorf("read as %v", got)
		}
	}
}

// A rowRefuser is a store whose batches refuse rows and have to be cancelled.
type rowRefuser struct {
	ds.Batching
	open int // batches
}

func (s *rowRefuser) Batch(context.Context) (ds.Batch, error) {
	s.open++
	return &refusingBatch{store: s}, nil
}

type refusingBatch struct{ store *rowRefuser }

func (b *refusingBatch) Put(context.Context, ds.Key, []byte) error { return errFault }
func (b *refusingBatch) Delete(context.Context, ds.Key) error      { return errFault }
func (b *refusingBatch) Commit(context.Context) error              { b.store.open--; return nil }
func (b *refusingBatch) Cancel() error                             { b.store.open--; return nil }

func TestBatchThatRefusesARowIsCancelled(t *testing.T) {
	store := &rowRefuser{Batching: newAtomicStore()}
	rows, err := newRowStore(ctx, store, testKeyspace(t))
	if err != nil || rows.batching == nil {
		t.Fatal(err, reflect.TypeOf(rows.batching))
	}
	if err := rows.write(ctx, []row{{key: testNamespace}}); err == nil || store.open != 0 {
		t.Errorf("%v, and %d batches are open", err, store.open)
	}
}

func TestDamagedRedoRowIsNamed(t *testing.T) {
	for _, key := range []string{"", "x", "/crdtx/s/r/k", "/crdt", "/crdt/h/", "crdt/h/x"} {
		redo := marshalDelta(t, &pb.Delta{Elements: []*pb.Element{{Key: "/crdt/h"}}, Tombstones: []*pb.Element{{Key: key}}})
		err := openUntouched(t, writtenStore(t, "old-v1-joined").with("/w", redo...), false)
		if err == nil || !strings.Contains(err.Error(), "/crdt/w") {
			t.Errorf("a redo row that removes %q: %v", key, err)
		}
	}
}
