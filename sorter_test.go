package crdt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// randomChange is one of few versions, so that many are about the same.
func randomChange(rng *rand.Rand) *treeChange {
	c := &treeChange{entry: entry{key: fmt.Sprintf("/%x", rng.IntN(20)), id: testID(rng.IntN(10))}}
	switch rng.IntN(4) {
	case 0:
		c.tombstone = true
	case 1:
		c.removed = true
	default:
		c.priority, c.value = 7, bytes.Repeat([]byte{byte('a' + rng.IntN(3))}, rng.IntN(100))
	}
	return c
}

// better reports whether a change counts and not another of the same version.
func better(a, b *treeChange) bool {
	if a.removed != b.removed {
		return a.removed
	}
	return bytes.Compare(a.value, b.value) > 0
}

func TestSorter(t *testing.T) {
	for _, limit := range []int{1, 300, 1000, 1 << 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			s := newSorter()
			s.limit = limit
			defer s.close()
			rng, want := rand.New(rand.NewPCG(1, uint64(limit))), []*treeChange(nil)
			for range 2000 {
				c := randomChange(rng)
				if err := s.add(c); err != nil {
					t.Fatal(err)
				}
				i, found := slices.BinarySearchFunc(want, c, func(a, b *treeChange) int { return a.compare(&b.entry) })
				switch {
				case !found:
					want = slices.Insert(want, i, c)
				case better(c, want[i]):
					want[i] = c
				}
			}
			i := 0
			for c, err := range s.all() {
				if err != nil {
					t.Fatal(err)
				}
				if i == len(want) || fmt.Sprint(*c) != fmt.Sprint(*want[i]) {
					t.Fatalf("change %d of %d is %v", i, len(want), *c)
				}
				i++
			}
			if i != len(want) {
				t.Errorf("%d changes, want %d", i, len(want))
			}
		})
	}
}

func TestSorterLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	s := newSorter()
	s.limit = 1
	for i := range 10 {
		if err := s.add(&treeChange{entry: entry{key: fmt.Sprint("/", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	for range s.all() {
		break // what is not read to the end leaves nothing either
	}
	s.close()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSorterTellsOfAFullDisk(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()+"/nowhere")
	s := newSorter()
	defer s.close()
	s.limit = 1
	_ = s.add(&treeChange{entry: entry{key: "/a"}})
	if err := s.add(&treeChange{entry: entry{key: "/b"}}); err == nil {
		t.Error("there was nowhere to put it")
	}
}

func TestSorterOfNothing(t *testing.T) {
	s := newSorter()
	defer s.close()
	for c, err := range s.all() {
		t.Errorf("%v, %v", c, err)
	}
}
