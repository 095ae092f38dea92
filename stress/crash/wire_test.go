package crash

import (
	"encoding/gob"
	"io"
	"sync"
)

// A message goes over the pipes between parent and child. Which fields are in
// use depends on its kind.
type message struct {
	Kind  kind
	ID    uint64 // of an operation, or of the request that a reply is for
	Data  []byte // of a broadcast or a block, or the bytes of a CID
	Found bool   // of a block: it is there; of a read: it had been merged before
	Op    operation
	Load  load
	Pairs map[string]string // as brief shows them
	State state
	Error string
}

type kind byte

const (
	// From the child:
	opened  kind = iota + 1 // the store is open, and New begins
	ready                   // New has returned
	begun                   // an operation begins
	acked                   // it has returned without an error
	read                    // the DAG service is asked for a block
	closing                 // Close begins
	broken                  // something failed that must not; the child ends

	// From the parent, answered with a reply:
	startLoad
	apply // one operation, without a word in the journal
	tellState
	tellPairs
	tellRoot
	inspect
	closeDown // answered with closing
	reply

	// Either way:
	broadcast
	want // a block; answered with block
	block
)

// A state is what a replica says of itself.
type state struct {
	Heads  []string // CIDs, sorted
	Height uint64
	Jobs   int // blocks known to be missing
	Dirty  bool
}

// A conn sends and receives messages. What has been sent before a SIGKILL is
// received: it lies in the pipe.
type conn struct {
	mu  sync.Mutex // one sender at a time
	enc *gob.Encoder
	dec *gob.Decoder // one goroutine receives
}

func newConn(in io.Reader, out io.Writer) *conn {
	return &conn{enc: gob.NewEncoder(out), dec: gob.NewDecoder(in)}
}

func (c *conn) send(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enc.Encode(m)
}

// receive returns the next message. A message that was cut off is an error, as
// is the end.
func (c *conn) receive() (m message, err error) {
	err = c.dec.Decode(&m)
	return m, err
}
