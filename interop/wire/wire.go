// Package wire is the language between the tests and a peer process: the peer reads
// one JSON Request a line on stdin and answers each, in order, with one JSON Response
// a line on stdout. Before the first request it says where it listens: a Response
// with Addr alone.
package wire

// The operations a peer knows, and the Request and Response fields they use.
const (
	Put     = "put"     // Key, Value
	Get     = "get"     // Key; answers Found, Value
	Delete  = "delete"  // Key
	PutMany = "putmany" // Pairs, one Put after the other
	Batch   = "batch"   // Pairs, Keys to delete, in one ds.Batch
	List    = "list"    // answers Pairs: all that a Query of the replica gives
	Rows    = "rows"    // answers Pairs: the raw rows below the replica's namespace
	Merged  = "merged"  // answers Pairs: the marks of all merged blocks, without values
	Stats   = "stats"   // answers Heads, MaxHeight, Dirty, InVain and, of ours, LastCheckpoint
	Connect = "connect" // Addr
	Isolate = "isolate" // drops all connections and refuses new ones
	Rejoin  = "rejoin"  // ends Isolate
	Forget  = "forget"  // loses all blocks that another block links to
	Close   = "close"   // closes the replica and ends the process

	// Of ours alone:
	Checkpoint = "checkpoint"
	Compact    = "compact" // answers Dropped
)

// Pair is a key and its value.
type Pair struct {
	Key   string
	Value []byte
}

// Request is one operation for a peer.
type Request struct {
	Op    string
	Key   string   `json:",omitempty"`
	Value []byte   `json:",omitempty"`
	Pairs []Pair   `json:",omitempty"`
	Keys  []string `json:",omitempty"`
	Addr  string   `json:",omitempty"`
}

// Response is the outcome of one Request; Error is empty when it succeeded.
type Response struct {
	Error     string `json:",omitempty"`
	Addr      string `json:",omitempty"`
	Found     bool   `json:",omitempty"`
	Value     []byte `json:",omitempty"`
	Pairs     []Pair `json:",omitempty"`
	Heads     int    `json:",omitempty"`
	MaxHeight uint64 `json:",omitempty"`
	Dirty     bool   `json:",omitempty"`
	InVain    int    `json:",omitempty"` // blocks that were asked for, and are not here

	LastCheckpoint uint64 `json:",omitempty"` // its height
	Dropped        int    `json:",omitempty"` // blocks
}
