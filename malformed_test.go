package crdt

import (
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/pb"
)

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
