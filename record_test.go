package crdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
)

func TestMalformedMarksAndLosersAreErrors(t *testing.T) {
	waits := (&mark{state: pending, missing: 1, links: []blockID{testID(1)}}).encode()
	for name, row := range map[string][]byte{
		"complete":           {byte(complete)},
		"unknown":            {0},
		"refused and more":   {byte(refused), 1},
		"covered, refused":   {byte(refused) | neverHeadBit},
		"covered, stranded":  {byte(stranded) | neverHeadBit},
		"pending":            {byte(pending)},
		"half a link":        waits[:len(waits)-1],
		"half a link beyond": append(slices.Clone(waits), 1),
	} {
		if m, err := decodeMark(row); !errors.Is(err, errBadMark) {
			t.Errorf("the mark %s is %+v: %v", name, m, err)
		}
	}
	for _, row := range [][]byte{{0}, make([]byte, loserHeader-1), append(make([]byte, loserHeader), 1), append([]byte{2}, testIDs(1)...)} {
		if l, err := decodeLoser(testID(1), row); !errors.Is(err, errBadRecord) {
			t.Errorf("the loser %x is %+v: %v", row, l, err)
		}
	}
}

// A loser whose value is stored keeps its priority, even if it is the least.
func TestLoserKeepsAnyPriority(t *testing.T) {
	eachOddPriority(t, func(t *testing.T, p uint64) {
		for _, keep := range []bool{false, true} {
			l := &loser{version: version{id: testID(1), priority: p, value: []byte("v"), keepValue: keep}, hasValue: true}
			got, err := decodeLoser(testID(1), l.encode())
			if err != nil || got.priority != p || got.unranked || got.hasValue != keep {
				t.Errorf("priority %d is read as %+v: %v", p, got, err)
			}
		}
	})
	if l, err := decodeLoser(testID(1), (&loser{unranked: true}).encode()); err != nil || !l.unranked {
		t.Errorf("a loser of unknown priority is read as %+v: %v", l, err)
	}
}

func FuzzRecord(f *testing.F) {
	v := version{id: testID(1), priority: 3, value: []byte("value")}
	f.Add((&record{version: v, losers: true}).encode())
	kept := v
	kept.keepValue = true
	f.Add((&record{version: kept, unresolved: true}).encode())
	f.Add((&loser{version: kept}).encode())
	f.Add((&loser{version: v}).encode())
	f.Add((&loser{version: version{value: v.value, keepValue: true}}).encode())
	f.Add([]byte{})
	f.Add((&mark{state: refused}).encode())
	f.Add((&mark{state: stranded}).encode())
	tip := HeadValue{Height: 300, DAGName: "dag"}
	f.Add((&mark{state: pending, missing: 2, tip: tip, links: []blockID{testID(1), testID(2)}, neverHead: true}).encode())
	f.Add(headRow(tip))
	f.Add(pendingHeadRow(tip))
	f.Add(binary.AppendUvarint(nil, 3))
	f.Fuzz(func(t *testing.T, row []byte) {
		stable(t, "record", row, decodeRecord, (*record).encode)
		stable(t, "loser", row, func(b []byte) (*loser, error) { return decodeLoser(testID(1), b) }, (*loser).encode)
		stable(t, "mark", row, decodeMark, (*mark).encode)
		stable(t, "pending head", row, readPendingHead, pendingHeadRow)
		checkValueIsItsOwn(t, row)
		if m, err := decodeMark(row); err == nil && m.state == unknown {
			t.Error("a row says that its block is unknown")
		}
	})
}

// readPendingHead reads a pending head's row as New does.
func readPendingHead(b []byte) (HeadValue, error) {
	h := newSetHarness()
	row := h.store.keys.pendingHead(testID(1), HeadValue{})
	if err := h.store.Put(ctx, row, b); err != nil {
		return HeadValue{}, err
	}
	_, pendingHeads, err := h.store.loadTips(ctx)
	return pendingHeads[testID(1)], err
}

// stable checks that what is read from a row survives being written and read.
func stable[T any](t *testing.T, kind string, row []byte, decode func([]byte) (T, error), encode func(T) []byte) {
	t.Helper()
	v, err := decode(row)
	if err != nil {
		return
	}
	written := encode(v)
	again, err := decode(written)
	if err != nil || !reflect.DeepEqual(again, v) {
		t.Errorf("%s %x is written as %x, and read as %+v, not %+v: %v", kind, row, written, again, v, err)
	}
	if next := encode(again); !bytes.Equal(next, written) {
		t.Errorf("%s %x is written as %x, then as %x", kind, row, written, next)
	}
}

// checkValueIsItsOwn checks that a value that grows spoils nothing behind the
// row, and that what was encoded does not change with the row.
func checkValueIsItsOwn(t *testing.T, row []byte) {
	t.Helper()
	buffer := append(slices.Clone(row), "behind"...)
	row = buffer[:len(row)]
	var values [][]byte
	if r, err := decodeRecord(row); err == nil {
		values = append(values, r.value)
	}
	if l, err := decodeLoser(testID(1), row); err == nil {
		values = append(values, l.value)
	}
	for _, v := range values {
		_ = append(v, '!')
		if string(buffer[len(row):]) != "behind" {
			t.Fatal("the bytes behind the row have changed")
		}
	}
}
