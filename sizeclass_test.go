package crdt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
)

// greedyBlocks take as much memory for their size as a block can.
func greedyBlocks(t *testing.T) map[string][]byte {
	delta := func(d *pb.Delta) []byte { d.Priority = 1; return marshalDelta(t, d) }
	repeat := func(e *pb.Element, n int) []*pb.Element {
		all := make([]*pb.Element, n)
		for i := range all {
			all[i] = e
		}
		return all
	}
	links := make([]cid.Cid, 7_000)
	for i := range links {
		links[i] = unavailable(i)
	}
	liar := newTestNet().node()
	forge := func(data []byte, links ...cid.Cid) []byte { return liar.blocks[liar.forge(t, data, links...)] }
	return map[string][]byte{
		"nothing":        forge(delta(&pb.Delta{})),
		"one-byte keys":  forge(delta(&pb.Delta{Elements: repeat(&pb.Element{Key: "/a"}, 100_000)})),
		"empty elements": forge(delta(&pb.Delta{Elements: repeat(&pb.Element{}, 300_000)})),
		"unclean keys":   forge(delta(&pb.Delta{Elements: repeat(&pb.Element{Key: "a"}, 150_000)})),
		"tombstones":     forge(delta(&pb.Delta{Tombstones: repeat(&pb.Element{Key: "/a", Id: "/"}, 70_000)})),
		"one value":      forge(delta(&pb.Delta{Elements: []*pb.Element{{Key: "/a", Value: make([]byte, 700_000)}}})),
		"links":          forge(delta(&pb.Delta{}), links...),
	}
}

// Not parallel: it looks at the heap.
func TestFootprintIsNotLessThanWhatABlockTakes(t *testing.T) {
	blocks := &blockStore{newDelta: newPBDelta, maxSize: 2 << 20}
	for name, raw := range greedyBlocks(t) {
		id := blockID(sha256.Sum256(raw))
		before := heapInUse()
		node, err := decodeNode(raw)
		if err != nil {
			t.Fatal(err)
		}
		d := newPBDelta()
		if err := d.Unmarshal(node.Data()); err != nil {
			t.Fatal(err)
		}
		b, _ := blocks.decode(id, raw)
		took := int64(heapInUse()) - int64(before) + int64(len(raw))
		if most := footprint(raw); took > most || most > bytesPerBlock+140*int64(len(raw)) {
			t.Errorf("%s: %d bytes take %d, the footprint is %d", name, len(raw), took, most)
		}
		runtime.KeepAlive([]any{node, d, b})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// While the merger is behind, large blocks are decoded up to a limit, and
// small ones still find room.
func TestBlocksInFlightAreBounded(t *testing.T) { synctest.Test(t, boundBlocksInFlight) }

func boundBlocksInFlight(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	liar := net.node()
	r.must(r.committer.acquire(ctx)) // the merger has to wait
	greedy := &pb.Delta{Priority: 1}
	for range 30_000 {
		greedy.Elements = append(greedy.Elements, &pb.Element{Key: "/a"})
	}
	var offered []cid.Cid
	for i := range 24 {
		greedy.Elements[0].Value = fmt.Append(nil, i)
		offered = append(offered, r.offer(liar, greedy))
	}
	classes := r.fetcher.classes
	waitFor(t, "large blocks to wait for room", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		if classes.large.used > classes.large.size {
			t.Fatalf("%d bytes are in use", classes.large.used)
		}
		return len(classes.large.crowd.lines) > 5
	})
	offered = append(offered, r.offer(liar, &pb.Delta{Priority: 1, Elements: oneElement("/small")}))
	waitFor(t, "a small block to arrive", func() bool { return len(classes.small.queue) == 1 })
	r.committer.release()
	for _, c := range offered {
		r.awaitMerged(c)
	}
	waitFor(t, "all room to be free", func() bool {
		r.fetcher.mu.Lock()
		defer r.fetcher.mu.Unlock()
		return classes.large.used == 0 && classes.small.used == 0
	})
}

func TestHugeMessageCostsLittle(t *testing.T) {
	var msg []byte
	for i := range 3000 {
		msg = append(msg, announcement(unavailable(i))...)
	}
	msg = bytes.Repeat(msg, maxMessage/len(msg))
	var list []announced
	allocs := testing.AllocsPerRun(1, func() { list, _ = decodeBroadcast(msg) })
	if len(list) != maxHeadsPerMessage || allocs > 10*maxHeadsPerMessage {
		t.Errorf("%d heads, %.0f allocations", len(list), allocs)
	}
	if list, err := decodeBroadcast(make([]byte, maxMessage+1)); len(list) > 0 || err == nil {
		t.Errorf("of a larger message %d heads are announced: %v", len(list), err)
	}
}

// warnings is a logger that keeps warnings.
type warnings struct {
	logging.StandardLogger
	mu    sync.Mutex
	lines []string
}

// instead makes it take the place of another, which gets all else.
func (w *warnings) instead(of logging.StandardLogger) *warnings {
	w.StandardLogger = of
	return w
}

func (w *warnings) Warnf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &warnings{}
		l := boundedLog{log: log, what: "refusing a block"}
		for i := range 1000 {
			l.report(fmt.Errorf("bad block %d", i))
		}
		if n := len(log.lines); n != linesLogged {
			t.Errorf("%d lines", n)
		}
		time.Sleep(logPeriod + 1)
		l.report(errors.New("bad again"))
		if got := log.lines[linesLogged:]; len(got) != 2 || !strings.Contains(got[0], "990 more") {
			t.Errorf("later: %q", got)
		}
	})
}
