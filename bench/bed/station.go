package bed

import (
	"context"

	crdt "github.com/ipfs/go-ds-crdt"
)

// Station is a Broadcaster in memory: what one replica says and hears.
type Station struct {
	say   func(message []byte)
	Heard chan []byte
}

// NewStation makes one with room for more messages than any scenario sends at a time.
func NewStation(say func(message []byte)) *Station {
	return &Station{say: say, Heard: make(chan []byte, 1<<14)}
}

// NewQuietStation makes one that says nothing to anybody, and hears nothing.
func NewQuietStation() *Station { return &Station{say: Silent} }

// Broadcast implements crdt.Broadcaster.
func (s *Station) Broadcast(_ context.Context, message []byte) error {
	s.say(message)
	return nil
}

// Next implements crdt.Broadcaster.
func (s *Station) Next(ctx context.Context) ([]byte, error) {
	select {
	case message := <-s.Heard:
		return message, nil
	case <-ctx.Done():
		return nil, crdt.ErrNoMoreBroadcast
	}
}

// Silent is what nobody hears.
func Silent([]byte) {}

// NewStations makes n that hear each other.
func NewStations(n int) []*Station {
	all := make([]*Station, n)
	for i := range all {
		all[i] = NewStation(func(message []byte) {
			for j, other := range all {
				if j != i {
					other.Heard <- message
				}
			}
		})
	}
	return all
}
