package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The replicas need nothing but announcements to converge. This small protocol
// is for the people at the terminals: it tells a program that is about to exit
// whether the others have taken over what it wrote.
const (
	headsProtocol = "/globaldb/heads/1.0.0"
	headsTimeout  = 2 * time.Second
	headsMaxBytes = 1 << 20
)

// heads are the CIDs of the replica's heads, sorted. A head is listed once its
// whole history is here, so replicas with equal heads hold equal data.
func (n *node) heads(ctx context.Context) []string {
	var cids []string
	for _, h := range n.replica.InternalStats(ctx).Heads {
		cids = append(cids, h.Cid.String())
	}
	slices.Sort(cids)
	return cids
}

// serveHeads answers a stream with one head a line.
func (n *node) serveHeads(s network.Stream) {
	defer s.Close()
	if s.SetDeadline(time.Now().Add(headsTimeout)) != nil {
		return
	}
	// A write that fails leaves an answer that names fewer heads, and the
	// asker then takes us to be behind: safe.
	_, _ = io.WriteString(s, strings.Join(n.heads(n.ctx), "\n"))
}

// headsOf asks a peer for its heads.
func (n *node) headsOf(ctx context.Context, p peer.ID) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, headsTimeout)
	defer cancel()
	s, err := n.host.NewStream(ctx, p, headsProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(headsTimeout)); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(s, headsMaxBytes))
	return strings.Fields(string(answer)), err
}

// replicas are the connected peers that subscribed to our topic.
func (n *node) replicas() []peer.ID { return n.pubsub.ListPeers(topic) }

// holdsOurs reports whether a peer has merged everything that we have.
func (n *node) holdsOurs(ctx context.Context, p peer.ID) bool {
	theirs, err := n.headsOf(ctx, p)
	return err == nil && !slices.ContainsFunc(n.heads(ctx), func(head string) bool {
		return !slices.Contains(theirs, head)
	})
}

// behind are the replicas that have not confirmed to hold what we have.
func (n *node) behind(ctx context.Context) []peer.ID {
	return slices.DeleteFunc(n.replicas(), func(p peer.ID) bool { return n.holdsOurs(ctx, p) })
}

// await polls until done, or until ctx ends, whose cause it returns.
func await(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
