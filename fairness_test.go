package crdt

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
)

// A race is the history of an honest peer that comes to a replica while others do
// their worst. It runs on fake time.
type race struct {
	t       *testing.T
	net     *testNet
	honest  *testNode
	history []cid.Cid // the oldest block first
	r       *replica
	liars   []*liar
	begun   time.Time
	end     chan struct{}
}

func newRace(t *testing.T, blocks, liars int, opts ...func(*Options)) *race {
	x := &race{t: t, net: newTestNet(), begun: time.Now(), end: make(chan struct{})}
	x.net.delay = 5 * time.Millisecond
	x.honest = x.net.node()
	var below []cid.Cid
	for i := range blocks {
		c := x.honest.forge(t, marshalDelta(t, &pb.Delta{Priority: uint64(i + 1), Elements: oneElement(fmt.Sprint("/h/", i))}), below...)
		below = []cid.Cid{c}
		x.history = append(x.history, c)
	}
	x.r = x.net.newReplicaOn(t, newPrefixStore(), append(opts, silent)...)
	for range liars {
		l := newLiar(t, x.net, x.r.node)
		l.made = len(x.liars) << 32 // each invents blocks of its own
		x.liars = append(x.liars, l)
	}
	return x
}

// run has the honest peer announce its head every second, and returns how long the
// history takes.
func (x *race) run(most time.Duration) time.Duration {
	begun := time.Now()
	for {
		x.r.node.deliver(announcement(x.history[len(x.history)-1]))
		for range 1000 {
			time.Sleep(time.Millisecond)
			if took := time.Since(begun); x.r.state(x.history[0]).merged() || took > most {
				return took
			}
		}
	}
}

// often has each liar do something so many times a second, until finish is called.
func (x *race) often(perSecond int, f func(l *liar)) {
	for _, l := range x.liars {
		go func() {
			tick := time.NewTicker(time.Second / time.Duration(perSecond))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					f(l)
				case <-x.end:
					return
				}
			}
		}()
	}
}

func (x *race) finish() { close(x.end); synctest.Wait() }

// deadLinks offers a block with links that nobody has, and with some others.
func deadLinks(l *liar, links int, others ...blockID) cid.Cid {
	ids := others
	for range links {
		var id blockID
		binary.BigEndian.PutUint64(id[:], uint64(l.next()))
		ids = append(ids, id)
	}
	raw, err := encodeNode(marshalDelta(l.t, &pb.Delta{Priority: 1 << 40, Elements: l.unlike()}), ids, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.offerRaw(raw)
}

func nobodyHas(l *liar) { l.say(announcement(l.nobodyHas())) }

// realOnDead offers a block on top of one that nobody has.
func realOnDead(l *liar) {
	l.offer(&pb.Delta{Priority: 2, Elements: l.unlike()}, l.nobodyHas())
}

// inlineOnDead does so with the block in the message.
func inlineOnDead(l *liar) {
	c := l.block(&pb.Delta{Priority: 2, Elements: l.unlike()}, l.nobodyHas())
	l.say(announceInline(c, l.node.blocks[c]))
}

// eachOffers has each liar offer a block with dead links.
func eachOffers(links int) func(*race) {
	return func(x *race) {
		for _, l := range x.liars {
			deadLinks(l, links)
		}
	}
}

// eachOffersHistory has each liar offer a block with dead links, and links to all blocks of
// the honest history.
func eachOffersHistory(links int) func(*race) {
	return func(x *race) {
		for _, l := range x.liars {
			var ids []blockID
			for _, c := range x.history {
				id, err := blockIDOf(c)
				if err != nil {
					x.t.Fatal(err)
				}
				ids = append(ids, id)
			}
			deadLinks(l, links, ids...)
		}
	}
}

// eachAnnouncesHistory has each liar announce the newest honest block among many that
// nobody has, with or without its bytes.
func eachAnnouncesHistory(inline bool) func(*race) {
	return func(x *race) {
		newest := x.history[len(x.history)-1]
		for _, l := range x.liars {
			msg := &pb.CRDTBroadcast{}
			for range maxHeadsPerMessage - 1 {
				msg.Heads = append(msg.Heads, &pb.Head{Cid: l.nobodyHas().Bytes()})
			}
			h := &pb.Head{Cid: newest.Bytes()}
			if inline {
				h.Block = x.honest.blocks[newest]
			}
			msg.Heads = append(msg.Heads, h)
			l.say(mustMarshal(x.t, msg))
		}
	}
}

func eachSays(perSecond int, f func(*liar)) func(*race) {
	return func(x *race) { x.often(perSecond, f) }
}

var unfair = []struct {
	name   string
	liars  int
	attack func(*race)
}{
	{"600 dead links", 1, eachOffers(600)},
	{"1,000 dead links", 1, eachOffers(1000)},
	{"5,000 dead links", 1, eachOffers(5000)},
	{"50,000 dead links", 1, eachOffers(50_000)},
	{"2,000 dead links of each of twenty", 20, eachOffers(2000)},
	{"10,000 dead links beside those to the history", 1, eachOffersHistory(10_000)},
	{"2,000 dead links beside those to the history of each of twenty", 20, eachOffersHistory(2000)},
	{"the newest block announced among 2,047 that nobody has", 1, eachAnnouncesHistory(false)},
	{"the newest block announced so by each of twenty", 20, eachAnnouncesHistory(false)},
	{"the newest block inline among 2,047 that nobody has", 1, eachAnnouncesHistory(true)},
	{"300 announcements a second of nothing", 1, eachSays(300, nobodyHas)},
	{"15 announcements a second of each of twenty", 20, eachSays(15, nobodyHas)},
	{"200 real blocks a second on dead links", 1, eachSays(200, realOnDead)},
	{"10 real blocks a second of each of twenty", 20, eachSays(10, realOnDead)},
	{"300 inline blocks a second on dead links", 1, eachSays(300, inlineOnDead)},
	{"15 inline blocks a second of each of twenty", 20, eachSays(15, inlineOnDead)},
}

// However much is announced that nobody has, the history of an honest peer comes as
// fast as if it were alone, or half as fast at least.
func TestHistoryHasItsShare(t *testing.T) {
	const blocks = 200
	var alone time.Duration
	synctest.Test(t, func(t *testing.T) { alone = newRace(t, blocks, 0).run(time.Minute) })
	for _, u := range unfair {
		t.Run(u.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newRace(t, blocks, u.liars)
				defer x.finish()
				u.attack(x)
				time.Sleep(2 * time.Second)
				took := x.run(time.Minute)
				t.Logf("%s, and %s alone", took, alone)
				if took > 2*alone {
					t.Errorf("the history took %s, and %s alone", took, alone)
				}
			})
		})
	}
}

// A history that is under way is not held up by more announcements than there can be
// requests.
func TestHistoryUnderWayIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newRace(t, 200, 20)
		defer x.finish()
		go func() {
			time.Sleep(100 * time.Millisecond)
			x.often(300, nobodyHas)
		}()
		if took := x.run(time.Minute); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// Updates that have to be fetched come soon beside all that.
func TestUpdatesHaveTheirShare(t *testing.T) {
	for _, u := range unfair {
		t.Run(u.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				delays := updatesBeside(t, u.liars, u.attack)
				half, worst := delays[len(delays)/2], delays[len(delays)-1]
				t.Logf("half came within %s, all within %s", half, worst)
				if half > patience || worst > 5*time.Second {
					t.Errorf("half came within %s, all within %s", half, worst)
				}
			})
		})
	}
}

// updatesBeside returns how long each of some updates takes, the fastest first.
func updatesBeside(t *testing.T, liars int, attack func(*race)) (delays []time.Duration) {
	var mu sync.Mutex
	put := make(map[string]time.Time)
	x := newRace(t, 1, liars, func(o *Options) {
		o.PutHook = func(k ds.Key, _ []byte) {
			mu.Lock()
			defer mu.Unlock()
			if since, ok := put[k.String()]; ok {
				delays = append(delays, time.Since(since))
				delete(put, k.String())
			}
		}
	})
	defer x.finish()
	writer := x.net.newReplica(t, silent)
	attack(x)
	time.Sleep(time.Second)
	for i := range 100 {
		k := fmt.Sprint("/u/", i)
		mu.Lock()
		put[k] = time.Now()
		mu.Unlock()
		writer.put(k, "v")
		time.Sleep(50 * time.Millisecond)
	}
	waitFor(t, "all updates", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(put) == 0
	})
	slices.Sort(delays)
	return delays
}
