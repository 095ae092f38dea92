package main

import (
	"context"

	crdt "github.com/ipfs/go-ds-crdt"
)

// station is a Broadcaster in memory: what one replica says and hears.
type station struct {
	say   func(message []byte)
	heard chan []byte
}

// newStation makes one with room for more messages than any scenario sends at a time.
func newStation(say func(message []byte)) *station {
	return &station{say: say, heard: make(chan []byte, 1<<14)}
}

// Broadcast implements crdt.Broadcaster.
func (s *station) Broadcast(_ context.Context, message []byte) error {
	s.say(message)
	return nil
}

// Next implements crdt.Broadcaster.
func (s *station) Next(ctx context.Context) ([]byte, error) {
	select {
	case message := <-s.heard:
		return message, nil
	case <-ctx.Done():
		return nil, crdt.ErrNoMoreBroadcast
	}
}

// silent is what nobody hears.
func silent([]byte) {}

// newStations makes n that hear each other.
func newStations(n int) []*station {
	all := make([]*station, n)
	for i := range all {
		all[i] = newStation(func(message []byte) {
			for j, other := range all {
				if j != i {
					other.heard <- message
				}
			}
		})
	}
	return all
}
