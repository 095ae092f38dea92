package crdt

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
	"google.golang.org/protobuf/proto"
)

const (
	// maxHeadsPerMessage bounds what a single message from a peer can ask for,
	// and is how many heads go into one at most. With maxDAGNameLength that
	// stays below the 1 MiB that pubsub carries.
	maxHeadsPerMessage = 2048

	// maxInlineBytes bounds the blocks in one message, and those that wait to be
	// announced. The others are announced without their bytes.
	maxInlineBytes = 256 << 10

	// broadcastTimeout bounds each Broadcast call, and retryPause is how long
	// to wait after one that failed.
	broadcastTimeout = 30 * time.Second
	retryPause       = time.Second

	// joinPause is about how far apart announcements to peers that came are,
	// at the least. Up to a quarter of it passes at random before each, so that
	// one replica speaks first, and those that hear it need not.
	joinPause = 400 * time.Millisecond

	// maxUnmerged is how many announced blocks are kept in mind, at most, that are no heads.
	maxUnmerged = 64
)

// The announcer tells other replicas about the heads: at once about those
// written here, and now and then about all. With all heads goes the newest checkpoint of each
// DAG: a newcomer that found it below the heads would have fetched by then what skip links
// lead to, most of it below the checkpoint.
type announcer struct {
	ctx      context.Context
	bcast    Broadcaster // nil: an offline replica
	log      logging.StandardLogger
	frontier *frontier
	delay    time.Duration // Options.BroadcastBatchDelay
	interval time.Duration // Options.RebroadcastInterval
	inline   int           // the largest block that goes along, in bytes

	wake bell // rings while there is something to announce

	mu      sync.Mutex
	pending map[blockID]bool      // to be announced, if they are heads still
	fresh   []*block              // to be announced inline, in the order of their commits
	size    int                   // of fresh, in bytes
	seen    map[blockID]time.Time // what others announced since the last round
	ended   bool                  // nothing can be sent any more, and is kept for that
}

// inlineSize is the size of the largest block that travels inside its
// announcement.
func inlineSize(bcast Broadcaster, opts *Options) int {
	if carrier, ok := bcast.(BlockCarrier); ok && opts.InlineBlockSize == 0 {
		return carrier.InlineBlockSize()
	}
	return opts.InlineBlockSize
}

func newAnnouncer(ctx context.Context, bcast Broadcaster, f *frontier, opts *Options) *announcer {
	return &announcer{
		ctx:      ctx,
		bcast:    bcast,
		log:      opts.Logger,
		frontier: f,
		delay:    opts.BroadcastBatchDelay,
		interval: opts.RebroadcastInterval,
		inline:   inlineSize(bcast, opts),
		wake:     newBell(),
		pending:  make(map[blockID]bool),
		seen:     make(map[blockID]time.Time),
	}
}

// announce asks for new blocks to be announced. It does not block.
func (a *announcer) announce(blocks []*block) {
	if a.bcast == nil || len(blocks) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	for _, b := range blocks {
		if len(b.raw) <= a.inline && a.size+len(b.raw) <= maxInlineBytes {
			a.fresh = append(a.fresh, b)
			a.size += len(b.raw)
		} else {
			a.pending[b.id] = true
		}
	}
	a.wake.ring()
}

// announceHeads asks for all heads and checkpoints to be announced, except those that another
// replica has announced since a moment.
func (a *announcer) announceHeads(since time.Time) {
	heads, newest := a.frontier.announced()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	for _, all := range []tips{heads, newest} {
		for id := range all {
			if !a.seen[id].After(since) {
				a.pending[id] = true
			}
		}
	}
	a.wake.ring()
}

// sawHead notes that another replica has announced a block, so that the next round can leave
// it out, if it is a head by then. That may be hours away: what is none is removed before, once
// there is much of it. So a block counts that is not merged yet: else each replica whose round ends
// before another one repeats a new head would repeat it, and the more replicas the more do.
func (a *announcer) sawHead(id blockID) {
	heads, newest := a.frontier.announced()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[id] = time.Now()
	if len(a.seen) > maxUnmerged+2*(len(heads)+len(newest)) {
		maps.DeleteFunc(a.seen, func(id blockID, _ time.Time) bool { return !heads.has(id) && !newest.has(id) })
	}
}

// run announces until the context or the broadcasts end.
func (a *announcer) run() {
	begun := time.Now()
	a.announceHeads(begun)
	round := time.NewTimer(a.nextRound())
	defer round.Stop()
	for {
		select {
		case <-a.wake:
			sleep(a.ctx, a.delay)
			if a.sendPending(a.ctx) != nil {
				return
			}
		case <-round.C:
			a.announceHeads(begun)
			begun = time.Now()
			a.clearSeen()
			round.Reset(a.nextRound())
		case <-a.ctx.Done():
			return
		}
	}
}

// announceRest announces what is left when run has ended.
func (a *announcer) announceRest(ctx context.Context) {
	if a.bcast == nil {
		return
	}
	for heads := range slices.Chunk(a.takePending(), maxHeadsPerMessage) {
		err := a.send(ctx, heads)
		if err != nil {
			a.log.Infof("%d heads were not announced before the end: %s", len(heads), err)
		}
		if errors.Is(err, ErrNoMoreBroadcast) {
			return
		}
	}
}

// nextRound is the interval, jittered by 30 % so that replicas do not all
// speak at once.
func (a *announcer) nextRound() time.Duration {
	return time.Duration(float64(a.interval) * (0.7 + 0.6*rand.Float64()))
}

func (a *announcer) clearSeen() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.seen)
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// sendPending announces what is pending. What fails stays pending, until the
// broadcasts end: that alone is returned as an error.
func (a *announcer) sendPending(ctx context.Context) error {
	for heads := range slices.Chunk(a.takePending(), maxHeadsPerMessage) {
		err := a.send(ctx, heads)
		if errors.Is(err, ErrNoMoreBroadcast) {
			a.end()
			return err
		}
		if err != nil {
			if ctx.Err() == nil { // or else announceRest does
				a.log.Warnf("announcing %d heads, will try again: %s", len(heads), err)
			}
			a.putBack(heads)
			sleep(a.ctx, retryPause)
		}
	}
	return nil
}

// end forgets what was to be announced: at the next start all heads are.
func (a *announcer) end() {
	a.log.Infof("no more broadcasts: this replica announces nothing from now on")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.fresh, a.size = nil, 0
	clear(a.pending)
}

// takePending returns what to announce. Blocks that have been built upon need
// no announcement any more, but those that go inline, oldest first, spare a
// fetch.
func (a *announcer) takePending() []*pb.Head {
	a.mu.Lock()
	defer a.mu.Unlock()
	tops, newest := a.frontier.announced() // under the lock: they have whatever is pending
	var heads []*pb.Head
	for _, b := range a.fresh {
		delete(a.pending, b.id)
		heads = append(heads, &pb.Head{Cid: b.id.Cid().Bytes(), DagName: b.delta.dagName, Block: b.raw})
	}
	for _, id := range sortIDs(slices.Collect(maps.Keys(a.pending))) {
		tip, ok := tops[id]
		if !ok {
			tip, ok = newest[id]
		}
		if ok {
			heads = append(heads, &pb.Head{Cid: id.Cid().Bytes(), DagName: tip.DAGName})
		}
	}
	clear(a.pending)
	a.fresh, a.size = nil, 0
	return heads
}

// putBack has heads announced again, without their blocks: the message may have
// been too large.
func (a *announcer) putBack(heads []*pb.Head) {
	a.mu.Lock()
	for _, h := range heads {
		if l, err := linkFromBytes(h.GetCid()); err == nil {
			a.pending[l.id] = true
		}
	}
	a.mu.Unlock()
	a.wake.ring()
}

func (a *announcer) send(ctx context.Context, heads []*pb.Head) error {
	data, err := proto.Marshal(&pb.CRDTBroadcast{Heads: heads})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, broadcastTimeout)
	defer cancel()
	return a.bcast.Broadcast(ctx, data)
}

// greetPeers announces the heads when peers come, as often as joinPause lets.
func (a *announcer) greetPeers(n JoinNotifier, joined func()) {
	for {
		if err := n.Joined(a.ctx); err != nil {
			return
		}
		came := time.Now()
		joined()
		sleep(a.ctx, rand.N(joinPause/4))
		a.announceHeads(came)
		sleep(a.ctx, joinPause*3/4)
	}
}
