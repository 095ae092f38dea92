package crdt

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/pb"
)

func TestMalformedMarksAndLosersAreErrors(t *testing.T) {
	waits := (&mark{state: pending, missing: 1, links: []blockID{testID(1)}}).encode()
	for name, row := range map[string][]byte{
		"complete":           {byte(complete)},
		"unknown":            {0},
		"refused and more":   {byte(refused), 1},
		"covered, refused":   {byte(refused) | coveredBit},
		"covered, stranded":  {byte(stranded) | coveredBit},
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

func testIDs(i int) []byte { id := testID(i); return id[:] }

func TestTombstoneOfAnIDThatIsWrittenOddlyRemovesNothing(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.put("/k", "v")
	id, err := blockIDOf(r.head())
	r.must(err)
	name := id.dsKey()
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", name[len(name)-1])
	var odd []*pb.Element
	for _, s := range []string{name + "\n", name[:9] + "\r\n" + name[9:], name[:len(name)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[last+1]), name + "A", strings.ToLower(name)} {
		odd = append(odd, &pb.Element{Key: "/k", Id: s})
	}
	r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Tombstones: odd}))
	if got := r.get("/k"); got != "v" {
		t.Errorf("/k is %q", got)
	}
}

func TestManySkipLinksLeadDownward(t *testing.T) {
	b := &block{delta: &deltaContent{priority: 1 << 40}, links: make([]blockID, 200), skips: 199}
	for i := range b.links {
		if h := b.heightBelow(i); h >= 1<<40 {
			t.Fatalf("below link %d the height is %d", i, h)
		}
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
