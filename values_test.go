package crdt

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A gatedDelta holds up whoever decodes a large delta.
type gatedDelta struct {
	Delta
	gate *gate
}

type gate struct {
	mu        sync.Mutex
	now, most int
	open      chan struct{}
}

func (d *gatedDelta) Unmarshal(b []byte) error {
	if len(b) > 1<<20 {
		d.gate.mu.Lock()
		d.gate.now++
		d.gate.most = max(d.gate.most, d.gate.now)
		d.gate.mu.Unlock()
		<-d.gate.open
	}
	return d.Delta.Unmarshal(b)
}

func tombstoneOf(t *testing.T, key string, c cid.Cid) *pb.Element {
	id, err := blockIDOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Element{Key: key, Id: id.dsKey()}
}

// Small blocks that uncover values in a large one do not have it decoded for
// each of them at once.
func TestValuesAreReadWithinBounds(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t, silent)
	liar := net.node()
	large := &pb.Delta{Priority: 1}
	for i := range 100 {
		large.Elements = append(large.Elements, oneElement(fmt.Sprint("/k", i))...)
	}
	for range 200_000 {
		large.Elements = append(large.Elements, &pb.Element{Key: "/a"})
	}
	r.awaitMerged(r.offer(liar, large))
	var uncover []cid.Cid
	for i := range 100 {
		key := fmt.Sprint("/k", i)
		over := r.offer(liar, &pb.Delta{Priority: 5, Elements: oneElement(key)})
		r.awaitMerged(over)
		uncover = append(uncover, liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 6, Tombstones: []*pb.Element{tombstoneOf(t, key, over)}})))
	}
	g := &gate{open: make(chan struct{})}
	r.reopenWith(r.node, &MerkleCRDTOptions{DeltaFactory: func() Delta { return &gatedDelta{newPBDelta(), g} }})
	r.node.deliver(announcement(uncover...))
	waitFor(t, "as many readers as there may be", func() bool {
		r.walker.mu.Lock()
		defer r.walker.mu.Unlock()
		return r.walker.valued == maxParked
	})
	for range 1000 {
		runtime.Gosched() // those who can have begun to decode by now
	}
	g.mu.Lock()
	if g.most == 0 || g.most > 2 { // recall may read it as well
		t.Errorf("%d large blocks were decoded at once", g.most)
	}
	g.mu.Unlock()
	close(g.open)
}

// Of the blocks that wait, few hold values that were read for them.
func TestFewBlocksHoldValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		r := net.newReplica(t, silent, func(o *Options) { o.NumWorkers = 1; o.RebroadcastInterval = time.Minute })
		liar := net.node()
		r.awaitMerged(r.offer(liar, &pb.Delta{Priority: 1, Elements: []*pb.Element{{Key: "/k", Value: make([]byte, 1<<20)}}}))
		over := r.offer(liar, &pb.Delta{Priority: 5, Elements: oneElement("/k")})
		r.awaitMerged(over)
		links := []cid.Cid{liar.wideBlock(t, 1<<40)}
		for i := range 300 {
			d := &pb.Delta{Priority: uint64(10 + i)}
			for range 200 {
				d.Tombstones = append(d.Tombstones, tombstoneOf(t, "/k", over))
			}
			links = append(links, liar.forge(t, marshalDelta(t, d)))
		}
		top := liar.forge(t, marshalDelta(t, &pb.Delta{Priority: 1000}), links...)
		show := liar.hide(t, links...)
		r.node.deliver(announcement(top))
		time.Sleep(2 * time.Second)
		r.must(r.acquire(ctx))
		show()
		time.Sleep(10 * time.Second)
		r.release()
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			if n := r.haveValues(); n > maxParked {
				t.Fatalf("%d blocks hold values of 1 MiB each", n)
			}
		}
	})
}

func (r *replica) haveValues() (n int) {
	r.walker.mu.Lock()
	defer r.walker.mu.Unlock()
	for _, j := range r.walker.jobs {
		if len(j.values) > 0 {
			n++
		}
	}
	return n
}

// What is published wins over what its keys have from another DAG, as a Put
// does, up to the greatest priority: then the greater value does.
func TestPublishWinsOverOtherDAGs(t *testing.T) {
	net := newTestNet()
	r := net.newReplica(t)
	publish := func(value string) Head {
		d, err := r.Set().Add(ctx, "/k", []byte(value))
		r.must(err)
		d.SetDagName("low")
		h, err := r.Publish(ctx, d)
		r.must(err)
		return h
	}
	for i := range 3 {
		r.put("/k", fmt.Sprint("z", i))
	}
	if h := publish("a"); h.Height != 4 || r.get("/k") != "a" {
		t.Errorf("published a as %s, and Get gives %q", h, r.get("/k"))
	}
	r.awaitMerged(r.offer(net.node(), &pb.Delta{Priority: maxPriority, DagName: "top", Elements: []*pb.Element{{Key: "/k", Value: []byte("m")}}}))
	if h := publish("b"); h.Height != maxPriority || r.get("/k") != "m" {
		t.Errorf("published b as %s, and Get gives %q", h, r.get("/k"))
	}
	if publish("n"); r.get("/k") != "n" {
		t.Errorf("published n, and Get gives %q", r.get("/k"))
	}
}
