package crdt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"
)

const (
	pubsubTestTopic = "crdt-test"
	pubsubTestLimit = time.Minute // for what should happen at once: some machines are slow
)

// A pubsubTestNode is a libp2p host with a PubSub.
type pubsubTestNode struct {
	host host.Host
	psub *pubsub.PubSub
	stop context.CancelFunc // ends the PubSub
}

func newPubsubTestNode(t *testing.T, opts ...pubsub.Option) *pubsubTestNode {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	pubsubTestOK(t, err)
	t.Cleanup(func() { h.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	psub, err := pubsub.NewGossipSub(ctx, h, opts...)
	pubsubTestOK(t, err)
	return &pubsubTestNode{host: h, psub: psub, stop: cancel}
}

// broadcaster also returns what ends it.
func (n *pubsubTestNode) broadcaster(t *testing.T) (*PubSubBroadcaster, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	b, err := NewPubSubBroadcaster(ctx, n.psub, pubsubTestTopic)
	pubsubTestOK(t, err)
	return b, cancel
}

func (n *pubsubTestNode) connect(t *testing.T, to *pubsubTestNode) {
	t.Helper()
	info := peer.AddrInfo{ID: to.host.ID(), Addrs: to.host.Addrs()}
	pubsubTestOK(t, n.host.Connect(pubsubTestContext(t), info))
}

func (n *pubsubTestNode) awaitTopicPeers(t *testing.T, count int) {
	t.Helper()
	pubsubTestUntil(t, "peers on the topic", func() bool {
		return len(n.psub.ListPeers(pubsubTestTopic)) == count
	})
}

// newPubsubTestPair returns the broadcasters of two nodes that know of each
// other. They flood, so that no test but those of Joined waits for a mesh.
func newPubsubTestPair(t *testing.T, opts ...pubsub.Option) (a, b *PubSubBroadcaster) {
	t.Helper()
	opts = append(opts, pubsub.WithFloodPublish(true))
	na, nb := newPubsubTestNode(t, opts...), newPubsubTestNode(t, opts...)
	a, _ = na.broadcaster(t)
	b, _ = nb.broadcaster(t)
	na.connect(t, nb)
	na.awaitTopicPeers(t, 1)
	nb.awaitTopicPeers(t, 1)
	return a, b
}

func pubsubTestOK(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pubsubTestWant(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func pubsubTestContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), pubsubTestLimit)
	t.Cleanup(cancel)
	return ctx
}

func pubsubTestUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(pubsubTestLimit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func pubsubTestSend(t *testing.T, from *PubSubBroadcaster, msg string) {
	t.Helper()
	pubsubTestOK(t, from.Broadcast(pubsubTestContext(t), []byte(msg)))
}

func pubsubTestReceive(t *testing.T, at *PubSubBroadcaster, want string) {
	t.Helper()
	got, err := at.Next(pubsubTestContext(t))
	pubsubTestOK(t, err)
	if string(got) != want {
		t.Fatalf("received %d bytes %.40q, want %.40q", len(got), got, want)
	}
}

// pubsubTestNoneOfOurs fails when a goroutine that is not in before runs code
// of this module. Those of a libp2p host come and go as it likes.
func pubsubTestNoneOfOurs(t *testing.T, before goleak.Option) {
	t.Helper()
	if err := goleak.Find(before); err != nil && strings.Contains(err.Error(), "/go-ds-crdt.") {
		t.Fatal(err)
	}
}

// A replica sees its own message before anyone can answer it. So an answer that
// is the first to come out proves that the echo does not.
func TestPubSubDropsOwnEchoOnly(t *testing.T) {
	overwrite := func(_ context.Context, _ peer.ID, msg *pubsub.Message) bool {
		msg.ValidatorData = "overwritten"
		return true
	}
	contentID := func(msg *pubsubpb.Message) string {
		sum := sha256.Sum256(msg.GetData())
		return string(sum[:])
	}
	for name, opts := range map[string][]pubsub.Option{
		"signed":    nil,
		"validator": {pubsub.WithDefaultValidator(overwrite)},
		"unsigned":  {pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign)},
		"no author": {pubsub.WithNoAuthor(), pubsub.WithMessageIdFn(contentID)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newPubsubTestPair(t, opts...)
			for _, msg := range []string{"first", "second", ""} {
				pubsubTestSend(t, a, msg)
				pubsubTestReceive(t, b, msg)
				pubsubTestSend(t, b, "answer to "+msg)
				pubsubTestReceive(t, a, "answer to "+msg)
			}
		})
	}
}

func TestPubSubDropsOwnEchoWithTopicValidator(t *testing.T) {
	t.Parallel()
	a, b := newPubsubTestPair(t)
	accept := func(_ context.Context, _ peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
		msg.ValidatorData = struct{}{}
		return pubsub.ValidationAccept
	}
	pubsubTestOK(t, a.psub.RegisterTopicValidator(pubsubTestTopic, accept))
	pubsubTestSend(t, a, "question")
	pubsubTestReceive(t, b, "question")
	pubsubTestSend(t, b, "answer")
	pubsubTestReceive(t, a, "answer")
}

func TestPubSubBurstBeforeNextLosesNothing(t *testing.T) {
	t.Parallel()
	const burst = 1000
	a, b := newPubsubTestPair(t, pubsub.WithPeerOutboundQueueSize(2*burst), pubsub.WithValidateQueueSize(2*burst))
	missing := make(map[string]bool)
	for i := range burst {
		msg := fmt.Sprint("message ", i)
		missing[msg] = true
		pubsubTestSend(t, a, msg)
	}
	pubsubTestUntil(t, "the burst to arrive", func() bool {
		b.queue.mu.Lock()
		defer b.queue.mu.Unlock()
		return len(b.queue.msgs) == burst
	})
	for range burst {
		msg, err := b.Next(pubsubTestContext(t))
		pubsubTestOK(t, err)
		delete(missing, string(msg))
	}
	if len(missing) > 0 {
		t.Fatalf("%d messages were lost", len(missing))
	}
}

func TestPubSubBytesFromNextBelongToCaller(t *testing.T) {
	t.Parallel()
	a, b := newPubsubTestPair(t)
	other, err := b.topic.Subscribe()
	pubsubTestOK(t, err)
	pubsubTestSend(t, a, "message")
	mine, err := b.Next(pubsubTestContext(t))
	pubsubTestOK(t, err)
	clear(mine)
	theirs, err := other.Next(pubsubTestContext(t))
	pubsubTestOK(t, err)
	if string(theirs.Data) != "message" {
		t.Fatalf("another subscriber received %q", theirs.Data)
	}
}

func TestPubSubBroadcastLargestMessage(t *testing.T) {
	t.Parallel()
	a, b := newPubsubTestPair(t)
	largest := strings.Repeat("x", a.maxLen())
	if err := a.Broadcast(pubsubTestContext(t), []byte(largest+"x")); err == nil {
		t.Fatal("a message over the limit was accepted")
	}
	pubsubTestSend(t, a, largest)
	pubsubTestReceive(t, b, largest)
}

func TestPubSubBroadcastTellsOfRefusal(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, peer.ID, *pubsub.Message) bool { return false }
	b, _ := newPubsubTestNode(t, pubsub.WithDefaultValidator(refuse)).broadcaster(t)
	err := b.Broadcast(pubsubTestContext(t), []byte("message"))
	var refusal pubsub.ValidationError
	if !errors.As(err, &refusal) {
		t.Fatalf("got error %v, want a pubsub.ValidationError", err)
	}
}

// Not parallel, so that no other test's goroutines come and go meanwhile.
func TestPubSubEndsWithItsContext(t *testing.T) {
	node := newPubsubTestNode(t)
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	b, err := NewPubSubBroadcaster(ctx, node.psub, pubsubTestTopic)
	pubsubTestOK(t, err)

	calls := map[string]func() error{
		"Next":                 func() error { _, err := b.Next(context.Background()); return err },
		"Next, same context":   func() error { _, err := b.Next(ctx); return err },
		"Joined":               func() error { return b.Joined(context.Background()) },
		"Joined, same context": func() error { return b.Joined(ctx) },
	}
	type result struct {
		call string
		err  error
	}
	results := make(chan result)
	for name, call := range calls {
		go func() { results <- result{name, call()} }()
	}
	cancel()
	for range calls {
		if r := <-results; !errors.Is(r.err, ErrNoMoreBroadcast) {
			t.Errorf("%s: got error %v", r.call, r.err)
		}
	}
	pubsubTestWant(t, b.Broadcast(context.Background(), nil), ErrNoMoreBroadcast)
	pubsubTestNoneOfOurs(t, before)
	node.broadcaster(t) // the topic must be free
}

// pubsubTestEnding is a context that ends right after it was first asked.
type pubsubTestEnding struct {
	context.Context // has ended
	asked           bool
}

func (c *pubsubTestEnding) Err() error {
	if !c.asked {
		c.asked = true
		return nil
	}
	return c.Context.Err()
}

// The end must not pass for the caller's own, however little time lies between
// the ends of the caller's context, the broadcaster's and its parent.
func TestPubSubEndDuringCheckIsNoMoreBroadcast(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	parent := &pubsubTestEnding{Context: ended}
	b := &PubSubBroadcaster{pubsubLife: &pubsubLife{parent: parent, ctx: context.Background()}}
	pubsubTestWant(t, b.check(parent), ErrNoMoreBroadcast)
}

func TestPubSubEndsWithPubSub(t *testing.T) {
	t.Parallel()
	node := newPubsubTestNode(t)
	b, _ := node.broadcaster(t)
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := b.Next(short) // so that the broadcaster has seen PubSub alive
	pubsubTestWant(t, err, context.DeadlineExceeded)

	node.stop()
	_, err = b.Next(pubsubTestContext(t))
	pubsubTestWant(t, err, ErrNoMoreBroadcast)
	pubsubTestWant(t, b.Broadcast(pubsubTestContext(t), nil), ErrNoMoreBroadcast)
	pubsubTestWant(t, b.Joined(pubsubTestContext(t)), ErrNoMoreBroadcast)

	_, err = NewPubSubBroadcaster(pubsubTestContext(t), node.psub, pubsubTestTopic)
	pubsubTestWant(t, err, context.Canceled)
}

func TestPubSubGoesOnAfterCallersContext(t *testing.T) {
	t.Parallel()
	a, b := newPubsubTestPair(t)
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := b.Next(short)
	pubsubTestWant(t, err, context.DeadlineExceeded)
	pubsubTestWant(t, err, ErrNoMoreBroadcast)
	err = b.Broadcast(short, []byte("never sent"))
	pubsubTestWant(t, err, context.DeadlineExceeded)
	if errors.Is(err, ErrNoMoreBroadcast) {
		t.Errorf("Broadcast says that the broadcaster has ended: %v", err)
	}

	pubsubTestSend(t, a, "message")
	pubsubTestReceive(t, b, "message")
	pubsubTestSend(t, b, "answer")
	pubsubTestReceive(t, a, "answer")
}

func TestPubSubTopicIsJoinedOnce(t *testing.T) {
	t.Parallel()
	node := newPubsubTestNode(t)
	first, end := node.broadcaster(t)
	ctx := pubsubTestContext(t)
	_, err := NewPubSubBroadcaster(ctx, node.psub, pubsubTestTopic)
	if err == nil || !strings.Contains(err.Error(), pubsubTestTopic) {
		t.Fatalf("got error %v, want one that names the topic", err)
	}
	pubsubTestSend(t, first, "still works")

	end()
	_, err = first.Next(ctx)
	pubsubTestWant(t, err, ErrNoMoreBroadcast)
	node.broadcaster(t)
}

func TestPubSubNotMadeAfterContext(t *testing.T) {
	t.Parallel()
	node := newPubsubTestNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := NewPubSubBroadcaster(ctx, node.psub, pubsubTestTopic)
	pubsubTestWant(t, err, context.Canceled)
	node.broadcaster(t) // the topic must be free
}

// pubsubTestJoined waits until a join has been reported as often as it is.
func pubsubTestJoined(t *testing.T, b *PubSubBroadcaster) {
	t.Helper()
	for range pubsubGreetings {
		pubsubTestOK(t, b.Joined(pubsubTestContext(t)))
	}
}

// The hosts connect when both are on the topic already. That is when gossipsub
// needs a heartbeat before it sends to the new peer.
func TestPubSubBroadcastAfterJoinedReachesNewcomer(t *testing.T) {
	t.Parallel()
	na, nb := newPubsubTestNode(t), newPubsubTestNode(t)
	a, _ := na.broadcaster(t)
	b, _ := nb.broadcaster(t)
	na.connect(t, nb)
	pubsubTestJoined(t, a)
	pubsubTestSend(t, a, "welcome")
	pubsubTestReceive(t, b, "welcome")
}

func TestPubSubJoinedReportsEachComing(t *testing.T) {
	t.Parallel()
	na, nb, nc := newPubsubTestNode(t), newPubsubTestNode(t), newPubsubTestNode(t)
	_, end := nb.broadcaster(t)
	na.connect(t, nb)
	na.awaitTopicPeers(t, 1)
	a, _ := na.broadcaster(t)
	pubsubTestJoined(t, a) // b was there before

	nc.broadcaster(t)
	na.connect(t, nc)
	pubsubTestJoined(t, a)

	end()
	na.awaitTopicPeers(t, 1)
	nb.broadcaster(t)
	pubsubTestJoined(t, a)
}

func TestPubSubJoinedBlocksAndCoalesces(t *testing.T) {
	t.Parallel()
	b, _ := newPubsubTestNode(t).broadcaster(t)
	for range 3 {
		b.joined.ring()
	}
	pubsubTestOK(t, b.Joined(pubsubTestContext(t)))
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	pubsubTestWant(t, b.Joined(short), context.DeadlineExceeded)
}

func TestPubSubQueueForgetsOldest(t *testing.T) {
	const size = 1000
	q := newPubsubQueue(3 * (size + pubsubMessageCost))
	for i := range 5 {
		q.push([]byte(strings.Repeat(fmt.Sprint(i), size)))
	}
	for i := 2; i < 5; i++ {
		if msg, ok := q.pop(); !ok || msg[0] != '0'+byte(i) || len(msg) != size {
			t.Fatalf("popped %.5q (%v), want message %d", msg, ok, i)
		}
	}
	if msg, ok := q.pop(); ok || q.size != 0 {
		t.Fatalf("the empty queue popped %.5q, size %d", msg, q.size)
	}
}

// Each message wakes a caller, even when several came for one ring.
func TestPubSubQueueRingsWhileMessagesWait(t *testing.T) {
	q := newPubsubQueue(1000)
	q.push([]byte("one"))
	q.push([]byte("two"))
	for range 2 {
		select {
		case <-q.filled:
			q.pop()
		default:
			t.Fatal("a message waits without a ring")
		}
	}
	if len(q.filled) != 0 {
		t.Fatal("the empty queue rings")
	}
}

func TestPubSubQueueKeepsNewestWhateverItsSize(t *testing.T) {
	q := newPubsubQueue(100)
	q.push([]byte("small"))
	q.push(make([]byte, 1000))
	if msg, ok := q.pop(); !ok || len(msg) != 1000 {
		t.Fatalf("popped %d bytes (%v)", len(msg), ok)
	}
}

func TestPubSubQueueBoundsEmptyMessages(t *testing.T) {
	q := newPubsubQueue(10 * pubsubMessageCost)
	for range 100 {
		q.push(nil)
	}
	if len(q.msgs) != 10 {
		t.Fatalf("%d empty messages wait, want 10", len(q.msgs))
	}
}
