package flood

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"google.golang.org/protobuf/proto"
)

// A liar is a peer that announces what it likes.
type liar struct {
	*peer
	topic  *pubsub.Topic
	victim *replica
}

func newLiar(t *testing.T, victim *replica) *liar {
	p := openPeer(t)
	topic, err := p.gossip.Join(topic)
	must(t, err)
	p.connect(t, victim.peer)
	return &liar{p, topic, victim}
}

// believed waits until the victim looks for so many blocks at least.
func (l *liar) believed(t *testing.T, blocks int) {
	await(t, "the lie to be believed", func() bool { return l.victim.InternalStats(l.ctx).QueuedJobs >= blocks })
}

func (l *liar) announce(c cid.Cid) error {
	msg, err := proto.Marshal(&pb.CRDTBroadcast{Heads: []*pb.Head{{Cid: c.Bytes()}}})
	if err != nil {
		return err
	}
	return l.topic.Publish(l.ctx, msg)
}

// deadCID names a block that nobody has.
func deadCID() cid.Cid {
	noise := make([]byte, 32)
	_, _ = rand.Read(noise)
	c, err := merkledag.V1CidPrefix().Sum(noise)
	if err != nil {
		panic(err)
	}
	return c
}

// offerDeadLinks announces one block, which comes, with links to many that do not.
func (l *liar) offerDeadLinks(t *testing.T, links int) {
	delta, err := proto.Marshal(&pb.Delta{Priority: 2, Elements: []*pb.Element{{Key: "/lie"}}})
	must(t, err)
	node := merkledag.NodeWithData(delta)
	must(t, node.SetCidBuilder(merkledag.V1CidPrefix()))
	for range links {
		must(t, node.AddRawLink("", &ipld.Link{Cid: deadCID()}))
	}
	must(t, l.dag.Add(l.ctx, node))
	must(t, l.announce(node.Cid()))
	l.believed(t, links)
}

// announceNothing announces what nobody has, so many times a second, until the test ends.
func (l *liar) announceNothing(t *testing.T, perSecond int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	go func() {
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = l.announce(deadCID())
			case <-l.ctx.Done():
				return
			}
		}
	}()
	l.believed(t, perSecond)
}
