package wire

// Replay asks the program replay to open a new replica, to show it blocks as Steps say,
// and to wait until it has merged them all. One Replay a line on stdin is answered with
// one Outcome a line on stdout.
type Replay struct {
	Blocks []Block
	Steps  []Step

	// Heads are the rows of heads that the replica is to have in the end, below its
	// namespace.
	Heads []string
}

// Block is a block, and the CID that other blocks and announcements know it by.
type Block struct {
	Cid  string
	Data []byte
}

// Step is what happens next, in the order of the fields. Blocks are named by their place
// in Replay.Blocks.
type Step struct {
	Give     []int  `json:",omitempty"` // the replica can get these from now on
	Announce []byte `json:",omitempty"` // a broadcast that it hears
	Await    []int  `json:",omitempty"` // it has merged these
	Reopen   bool   `json:",omitempty"` // it is closed and opened again
}

// Outcome is what came of a Replay. Error is empty when it succeeded.
type Outcome struct {
	Error string   `json:",omitempty"`
	Pairs []Pair   `json:",omitempty"`
	Heads []string `json:",omitempty"` // the rows of heads, sorted
}
