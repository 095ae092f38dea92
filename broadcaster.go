package crdt

import (
	"context"
	"errors"
)

// ErrNoMoreBroadcast is returned by a Broadcaster that has ended. By that of Next
// nothing will ever come again: the replica stops listening and goes on with its
// own data. By that of Broadcast nothing can be sent: it announces no more, and
// when it is opened again it announces its heads.
var ErrNoMoreBroadcast = errors.New("crdt: no more broadcasts")

// A Broadcaster carries small messages from each replica to all the others. It
// may lose, reorder, duplicate or corrupt them: heads are announced again and
// again, so it is enough that some message arrives some time.
//
// The datastore calls Next from one goroutine and Broadcast from another.
type Broadcaster interface {
	// Broadcast sends a message to the other replicas. It may block until ctx
	// ends. The bytes belong to the datastore: they must not be changed, and
	// must not be kept after the call returns unless they are only read.
	// A message that fails is sent again later, unless the error is
	// ErrNoMoreBroadcast. It must not be that when ctx alone has ended.
	Broadcast(context.Context, []byte) error

	// Next blocks until a message from another replica arrives and returns it.
	// The bytes belong to the caller. It returns an error when ctx ends, which
	// may be ErrNoMoreBroadcast, and ErrNoMoreBroadcast once nothing more will
	// come; other errors are logged and Next is called again.
	Next(context.Context) ([]byte, error)
}

// A BlockCarrier is a Broadcaster whose messages may well be some KiB long. A
// small block then travels inside the announcement of it, and those who hear it
// need not fetch it. Implementing it is optional; Options.InlineBlockSize
// takes precedence.
type BlockCarrier interface {
	// InlineBlockSize returns how large a block may be to travel so, in bytes.
	// It is called once. The messages remain below 1 MiB, but hold several
	// blocks when writes come faster than Broadcast takes messages.
	InlineBlockSize() int
}

// A JoinNotifier is a Broadcaster that knows when peers come. The datastore
// announces its heads when one does, within a moment and unless another replica
// does so first, so that a newcomer need not wait for the next rebroadcast.
// Implementing it is optional.
type JoinNotifier interface {
	// Joined blocks until at least one peer has come since the last call. It
	// may return again for a peer that may not have been reached before. It
	// returns an error when ctx or the broadcaster ends. The datastore calls
	// it from one goroutine.
	Joined(context.Context) error
}
