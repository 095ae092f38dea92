package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestNewerVersionIsRefused(t *testing.T) {
	store := newAtomicStore()
	_ = store.Put(ctx, testNamespace.ChildString("crdt_version"), []byte{9})
	if _, err := New(store, testNamespace, newTestNet().node(), nil, nil); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("New: %v", err)
	}
}

func TestNewerVersionIsRefusedAndNothingTouched(t *testing.T) {
	redo := encodeRedo([]row{{key: testNamespace.ChildString("s/r/k"), value: []byte("whatever it means there")}})
	for name, o := range map[string]*oldStore{
		"next format":             writtenStore(t, "old-v1-joined").with("/crdt_version", 0x85),
		"next format, as uvarint": writtenStore(t, "old-v1-joined").with("/crdt_version", 4),
		"far future":              writtenStore(t, "old-v1-joined").with("/crdt_version", 0xff, 0x7f),
		"not closed":              writtenStore(t, "old-v1-joined").with("/crdt_version", 4).with("/bs"),
		"in the midst of a write": writtenStore(t, "old-v1-joined").with("/crdt_version", 4).with("/w", redo...),
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/plain=%v", name, plain), func(t *testing.T) {
				if err := openUntouched(t, o, plain); !errors.Is(err, ErrNewerVersion) {
					t.Errorf("New: %v", err)
				}
			})
		}
	}
}

// The first stores of format 2 had a version row that the old module does not
// refuse.
func TestPlainVersionRowIsReplaced(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	r.must(r.store.Put(ctx, testNamespace.ChildString("crdt_version"), []byte{3}))
	r.restart()
	r.holds("with a plain version row,", map[string]string{"/k": "v"})
	checkMigrated(t, r)
}

func TestMalformedVersionIsNamed(t *testing.T) {
	for _, value := range [][]byte{{}, {0}, {0x80}, slices.Repeat([]byte{0xff}, 11)} {
		err := openUntouched(t, writtenStore(t, "old-v1-joined").with("/crdt_version", value...), false)
		if err == nil || errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), "/crdt/crdt_version") {
			t.Errorf("a version row of %x: %v", value, err)
		}
	}
}

// openUntouched returns the error of opening a store, which must be left as it is.
func openUntouched(t *testing.T, o *oldStore, plain bool) error {
	t.Helper()
	c := &cutTest{t: t, old: o, node: newTestNet().node(), plain: plain}
	store := c.fresh()
	before := dump(t, store)
	err := c.open(store, -1)
	if after := dump(t, store); err != nil && !maps.Equal(before, after) {
		t.Errorf("the store was changed\n%s", diff(after, before))
	}
	return err
}

func TestRaisedFormatStays(t *testing.T) {
	r := newTestNet().newReplica(t)
	r.put("/k", "v")
	for range 2 {
		r.must(r.committer.raiseFormat(ctx))
		r.restart()
		if stamp := dump(t, r.store)["/crdt/crdt_version"]; stamp != coveredRow {
			t.Errorf("the version row is %x", stamp)
		}
	}
	r.put("/k", "w")
	r.holds("of the raised format,", map[string]string{"/k": "w"})
}
