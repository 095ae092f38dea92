package crdt

import "errors"

// Errors of a datastore's calls. They are returned wrapped, with the key, size
// or CID at hand: test for them with errors.Is.
var (
	// ErrClosed is returned by every call after Close, and by what Close cuts off.
	ErrClosed = errors.New("crdt: datastore is closed")

	// ErrInvalidKey is returned by writes to a key that, once it has been
	// cleaned as ds.NewKey does, can hold no value: the root key "/", and one
	// that is not valid UTF-8 or longer than MaxKeyLength.
	ErrInvalidKey = errors.New("crdt: invalid key")

	// ErrTooLarge is returned by a write that does not fit a block of
	// Options.MaxBlockSize bytes.
	ErrTooLarge = errors.New("crdt: too large for a block")

	// ErrInvalidBlock is returned, or logged, when a block is refused: it is
	// not a dag-pb node, its hash is another, or its delta breaks the rules. It
	// is also returned, with ErrInvalidKey, for a delta made here of which
	// peers would leave something out.
	ErrInvalidBlock = errors.New("crdt: invalid block")

	// ErrNewerVersion is returned by New and Downgrade when the store was written in a
	// format that this code does not know.
	ErrNewerVersion = errors.New("crdt: store has a newer format")
)
