package crdt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
)

const (
	// pubsubBuffer is how many messages PubSub may be ahead of the goroutine
	// that takes them. PubSub throws away what does not fit.
	pubsubBuffer = 4096

	// pubsubQueueBytes bounds what waits for Next.
	pubsubQueueBytes = 16 << 20

	// pubsubMessageCost is added to the length of each waiting message, so
	// that the bound holds for tiny ones too.
	pubsubMessageCost = 64

	// pubsubFrame is room for what PubSub sends along with a message besides
	// the topic's name: author, key and signature, at most RSA ones.
	pubsubFrame = 4 << 10

	// pubsubPoll is how often a broadcaster looks whether PubSub has ended.
	pubsubPoll = time.Second
)

// pubsubGreetings is how often a join is reported, half a heartbeat of gossipsub
// apart. Some heartbeat takes a peer that has come into the mesh, the next one
// unless it is late, and until then messages pass the peer by. Nothing tells
// when that is.
const pubsubGreetings = 3

// A PubSubBroadcaster is a Broadcaster on a topic of go-libp2p-pubsub. It is
// made by NewPubSubBroadcaster and lives until the context given there, or the
// PubSub, ends. All methods may be called from any number of goroutines.
//
// PubSub drops messages silently when they come faster than it sends or
// validates them. Programs that expect bursts raise its bounds of 32 messages:
// pubsub.WithPeerOutboundQueueSize and pubsub.WithValidateQueueSize.
//
// PubSub also drops a message whose id it has seen in the last two minutes
// (pubsub.WithSeenMessagesTTL). With ids made from the content alone, the same
// heads can be announced only that often to a peer that missed them. PubSub's
// default ids have no such limit, but must not be used together with
// pubsub.WithNoAuthor, which makes them all equal.
type PubSubBroadcaster struct {
	psub   *pubsub.PubSub
	topic  *pubsub.Topic
	sub    *pubsub.Subscription
	events *pubsub.TopicEventHandler

	mark   pubsubMark
	queue  *pubsubQueue
	joined bell

	*pubsubLife // a pointer: programs may compare the struct, and a func in it cannot be
}

// The life of a broadcaster: parent is the context it was given, ctx ends with
// parent, by end, or with PubSub; left is closed when nothing runs any more and
// the topic is free.
type pubsubLife struct {
	parent context.Context
	ctx    context.Context
	end    context.CancelFunc
	left   chan struct{}
}

var (
	_ Broadcaster  = (*PubSubBroadcaster)(nil)
	_ JoinNotifier = (*PubSubBroadcaster)(nil)
	_ BlockCarrier = (*PubSubBroadcaster)(nil)
)

// NewPubSubBroadcaster joins and subscribes to the topic. When ctx ends, the
// broadcaster leaves the topic, and every call returns ErrNoMoreBroadcast.
//
// PubSub lets a topic be joined once at a time: the error says so when this
// PubSub already has it. To join again, end the first broadcaster and wait
// until its Next has returned ErrNoMoreBroadcast.
func NewPubSubBroadcaster(ctx context.Context, psub *pubsub.PubSub, topic string) (*PubSubBroadcaster, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("crdt: joining pubsub topic %q: %w", topic, err)
	}
	b := &PubSubBroadcaster{
		psub:   psub,
		mark:   newPubsubMark(),
		queue:  newPubsubQueue(pubsubQueueBytes),
		joined: newBell(),
		pubsubLife: &pubsubLife{
			parent: ctx,
			left:   make(chan struct{}),
		},
	}
	if err := b.enter(topic); err != nil {
		return nil, fmt.Errorf("crdt: joining pubsub topic %q: %w", topic, err)
	}
	b.ctx, b.end = context.WithCancel(ctx)
	go b.run()
	return b, nil
}

// Broadcast publishes a message to the topic. It returns once PubSub has taken
// the message, after the validators that the program registered with PubSub;
// nobody needs to be listening. It neither keeps nor changes data.
//
// It returns ErrNoMoreBroadcast after the broadcaster's end, the error of ctx
// when that ended, PubSub's error when a validator refuses the message, and
// an error when the message is larger than PubSub's default maximum,
// pubsub.DefaultMaxMessageSize less about 4 KiB: PubSub itself would drop it
// without a word.
func (b *PubSubBroadcaster) Broadcast(ctx context.Context, data []byte) error {
	if err := b.check(ctx); err != nil {
		return err
	}
	if limit := b.maxLen(); len(data) > limit {
		return fmt.Errorf("crdt: broadcast of %d bytes: pubsub topic %q carries at most %d", len(data), b.topic, limit)
	}
	err := b.topic.Publish(ctx, b.mark.put(data))
	if err == nil {
		return nil
	}
	if b.pubsubEnded() {
		b.end()
	}
	if end := b.check(ctx); end != nil {
		return end
	}
	return fmt.Errorf("crdt: publishing to pubsub topic %q: %w", b.topic, err)
}

// Next blocks until another replica's message is there and returns it; what
// this broadcaster published itself never comes. The bytes belong to the
// caller.
//
// Messages wait for Next in the order they came. At most 16 MiB wait: when more
// come, the oldest are dropped, as their heads are announced again later.
//
// Next returns ErrNoMoreBroadcast when the broadcaster has ended, even if messages
// still wait. By then the topic is free and no goroutine is left, unless ctx ended
// too. When ctx alone has ended, it returns an error that is both
// ErrNoMoreBroadcast and that of ctx: programs that loop over Next look for the
// first alone.
func (b *PubSubBroadcaster) Next(ctx context.Context) ([]byte, error) {
	data, err := b.next(ctx)
	if err != nil && !errors.Is(err, ErrNoMoreBroadcast) {
		err = fmt.Errorf("%w for this call: %w", ErrNoMoreBroadcast, err)
	}
	return data, err
}

func (b *PubSubBroadcaster) next(ctx context.Context) ([]byte, error) {
	for {
		if err := b.check(ctx); err != nil {
			return nil, err
		}
		if data, ok := b.queue.pop(); ok {
			// PubSub still has the slice to pass on to others.
			return bytes.Clone(data), nil
		}
		if err := pubsubAwait(ctx, b, b.queue.filled); err != nil {
			return nil, err
		}
	}
}

// Joined blocks until a peer has joined the topic since the last call, or was
// there before the first. Peers that came meanwhile are reported by one return.
//
// It returns three times for a join: half a heartbeat of gossipsub afterwards,
// one and one and a half, at gossipsub's default 0.5, 1 and 1.5 seconds. A
// broadcast after the last one reaches a peer that has just connected; an
// earlier one may.
//
// It returns the error of ctx when that ended, and ErrNoMoreBroadcast when the
// broadcaster did.
func (b *PubSubBroadcaster) Joined(ctx context.Context) error {
	return pubsubAwait(ctx, b, b.joined)
}

// InlineBlockSize lets blocks of up to 16 KiB travel in broadcasts. Gossipsub
// sends such a message to a peer more than once now and then, which is cheaper
// than a round trip for each block.
func (b *PubSubBroadcaster) InlineBlockSize() int { return 16 << 10 }

// pubsubAwait blocks until something comes from c, or returns what check does
// when ctx or the broadcaster ends.
func pubsubAwait[T any](ctx context.Context, b *PubSubBroadcaster, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
	case <-b.ctx.Done():
	}
	return b.check(ctx)
}

// check returns why a call with this context cannot go on, if so. After the
// broadcaster's end it waits until the topic has been left, or ctx ends.
//
// The caller's context may be parent or made from it, and end with it at any
// moment. For this to be taken for the broadcaster's end, the caller's is asked
// first, and parent itself: b.ctx, made from it too, may end a little later.
func (b *PubSubBroadcaster) check(ctx context.Context) error {
	err := ctx.Err()
	if b.parent.Err() == nil && b.ctx.Err() == nil {
		return err
	}
	select {
	case <-b.left:
	case <-ctx.Done():
	}
	return ErrNoMoreBroadcast
}

func (b *PubSubBroadcaster) maxLen() int {
	return pubsub.DefaultMaxMessageSize - pubsubFrame - len(b.topic.String())
}

// enter joins the topic, or leaves nothing behind.
func (b *PubSubBroadcaster) enter(topic string) (err error) {
	if b.topic, err = b.psub.Join(topic); err != nil {
		return err
	}
	if b.sub, err = b.topic.Subscribe(pubsub.WithBufferSize(pubsubBuffer)); err == nil {
		b.events, err = b.topic.EventHandler()
	}
	if err != nil {
		b.leave()
	}
	return err
}

// leave undoes enter, also one that failed half-way. PubSub refuses to close a
// topic only when it has ended, or for subscriptions that are not ours.
func (b *PubSubBroadcaster) leave() {
	if b.events != nil {
		b.events.Cancel()
	}
	if b.sub != nil {
		b.sub.Cancel()
	}
	_ = b.topic.Close()
}

// run lives as long as the broadcaster, and ends its other goroutines.
func (b *PubSubBroadcaster) run() {
	var wg sync.WaitGroup
	wg.Go(b.drain)
	wg.Go(b.watchJoins)
	b.awaitEnd()
	b.end()
	wg.Wait()
	b.leave()
	close(b.left)
}

// awaitEnd returns when ctx or PubSub ends. It has to ask PubSub again and
// again: nothing tells a subscriber that no message will ever come.
func (b *PubSubBroadcaster) awaitEnd() {
	poll := time.NewTicker(pubsubPoll)
	defer poll.Stop()
	for !b.pubsubEnded() {
		select {
		case <-poll.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// pubsubEnded counts on PubSub to list our topic as long as we are on it, and to
// list nothing once it has ended. After leave, the answer means nothing.
func (b *PubSubBroadcaster) pubsubEnded() bool { return b.psub.GetTopics() == nil }

// drain moves messages from PubSub to the queue until the broadcaster ends. It
// never waits for Next, for PubSub does not wait either.
func (b *PubSubBroadcaster) drain() {
	for {
		msg, err := b.sub.Next(b.ctx)
		if err != nil {
			return
		}
		if !b.mark.on(msg.Data) {
			b.queue.push(msg.Data)
		}
	}
}

// watchJoins takes PubSub's events as they come, since a peer that leaves and
// comes back between two looks would show up in none of them.
func (b *PubSubBroadcaster) watchJoins() {
	for {
		event, err := b.events.NextPeerEvent(b.ctx)
		if err != nil {
			return
		}
		if event.Type == pubsub.PeerJoin {
			b.reportJoin()
		}
	}
}

// reportJoin rings later, from timers of the runtime: they outlive the
// broadcaster, but do nothing then.
func (b *PubSubBroadcaster) reportJoin() {
	for i := range pubsubGreetings {
		time.AfterFunc(pubsub.GossipSubHeartbeatInterval*time.Duration(i+1)/2, b.joined.ring)
	}
}

// A pubsubMark tells a broadcaster's own messages from all others. It stands in
// the spare capacity behind a published slice: PubSub hands that very slice to
// its subscribers here, while what other peers sent was read into slices of its
// own. So the mark never travels, and unlike Message.ValidatorData it cannot be
// overwritten by a validator. Message.ReceivedFrom would do, but PubSub does not
// tell which peer it is itself.
type pubsubMark [16]byte

func newPubsubMark() (m pubsubMark) {
	_, _ = rand.Read(m[:]) // never fails
	return m
}

// put returns a copy of data with the mark behind it.
func (m pubsubMark) put(data []byte) []byte {
	buf := make([]byte, 0, len(data)+len(m))
	buf = append(append(buf, data...), m[:]...)
	return buf[:len(data)]
}

// on reports whether data is a slice that put returned.
func (m pubsubMark) on(data []byte) bool {
	behind := data[len(data):cap(data)]
	return bytes.HasPrefix(behind, m[:])
}

// A pubsubQueue holds messages in the order they came, and forgets the oldest
// when they outgrow its limit.
type pubsubQueue struct {
	limit  int  // bytes
	filled bell // rings while messages wait

	mu   sync.Mutex
	msgs [][]byte // guarded by mu
	size int      // guarded by mu; what the messages cost
}

func newPubsubQueue(limit int) *pubsubQueue {
	return &pubsubQueue{limit: limit, filled: newBell()}
}

// push adds a message. The newest one is kept even if it is over the limit all
// by itself.
func (q *pubsubQueue) push(data []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.msgs = append(q.msgs, data)
	q.size += len(data) + pubsubMessageCost
	for q.size > q.limit && len(q.msgs) > 1 {
		q.takeLocked()
	}
	q.filled.ring()
}

// pop takes the oldest message, if there is one, and rings for the next.
func (q *pubsubQueue) pop() (data []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.msgs) == 0 {
		return nil, false
	}
	data = q.takeLocked()
	if len(q.msgs) > 0 {
		q.filled.ring()
	}
	return data, true
}

func (q *pubsubQueue) takeLocked() []byte {
	data := q.msgs[0]
	q.msgs[0] = nil
	q.msgs = q.msgs[1:]
	q.size -= len(data) + pubsubMessageCost
	return data
}
