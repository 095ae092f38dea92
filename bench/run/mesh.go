package main

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
)

// mesh is a tracer of GossipSub that tells when a peer has taken another one into its
// mesh: from then on, what it publishes is sent to the other.
type mesh struct {
	once   sync.Once
	formed chan struct{}
	at     time.Time // once formed is closed
}

func newMesh() *mesh { return &mesh{formed: make(chan struct{})} }

// Trace implements pubsub.EventTracer.
func (m *mesh) Trace(event *pb.TraceEvent) {
	if event.GetType() == pb.TraceEvent_GRAFT {
		m.once.Do(func() {
			m.at = time.Now()
			close(m.formed)
		})
	}
}

func (m *mesh) wait(ctx context.Context) error {
	select {
	case <-m.formed:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("the peers have not joined in a mesh"), ctx.Err())
	}
}
