package main

import (
	"context"

	"github.com/ipfs/go-ds-crdt"
)

// radio is a Broadcaster that hears what the test says, and that nobody hears.
type radio chan []byte

func (radio) Broadcast(context.Context, []byte) error { return nil }

func (r radio) Next(ctx context.Context) ([]byte, error) {
	select {
	case data := <-r:
		return data, nil
	case <-ctx.Done():
		return nil, crdt.ErrNoMoreBroadcast
	}
}
