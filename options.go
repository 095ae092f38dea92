package crdt

import (
	"context"
	"errors"
	"fmt"
	"time"

	ds "github.com/ipfs/go-datastore"
	logging "github.com/ipfs/go-log/v2"
)

// Options configure a Datastore. Start from DefaultOptions and change what you
// need; New copies them, so that later changes have no effect.
type Options struct {
	// Logger receives what an operator may want to know. The default logs as
	// subsystem "crdt" of go-log.
	Logger logging.StandardLogger

	// RebroadcastInterval is how often the heads are announced again, for
	// replicas that missed an announcement. Each pause is jittered by ±30 %.
	// Heads that another replica announced in the meantime are left out.
	// Must be greater than 0. Default: 1 minute.
	RebroadcastInterval time.Duration

	// PutHook is called with every pair that becomes visible, written here or
	// elsewhere. Hooks run one at a time, in commit order, after the commit
	// and without any lock held: a hook may use the datastore, but must not
	// close, repair or purge it, nor make checkpoints, drop history or ask for its
	// state root. A Put has normally run its own hook when it returns; when another
	// hook is running already, that may be a little later.
	//
	// When much waits for slow hooks, writes return late: when the hooks have
	// caught up, ctx ends, or no hook has returned for a second. Those that a hook
	// makes on its own goroutine do not wait. So a hook should not wait for
	// writes of other goroutines: each may take a second.
	PutHook func(k ds.Key, v []byte)

	// DeleteHook is called with every key that stops being visible. When the
	// removed value uncovers a concurrent one, PutHook is called next. When a new
	// value takes its place in the same commit, PutHook is called alone.
	DeleteHook func(k ds.Key)

	// NumWorkers scales how much is fetched side by side: up to 32 blocks a
	// worker are being asked for at any moment. Must be greater than 0.
	// Default: 5.
	NumWorkers int

	// DAGSyncerTimeout limits each single request to the DAG service.
	// 0 means no limit. Default: 5 minutes.
	DAGSyncerTimeout time.Duration

	// MaxBatchDeltaSize is how many bytes of keys and values a ds.Batch may
	// hold, and how many concurrent writes may share a block. A batch that
	// outgrows it is committed early, in the Put or Delete that does so.
	// Must be greater than 0. Default: 1 MiB.
	MaxBatchDeltaSize int

	// RepairInterval is how often a datastore that is marked dirty tries to
	// repair itself. 0 means never. Default: 1 hour.
	RepairInterval time.Duration

	// MultiHeadProcessing has no effect: announced heads are always worked on
	// side by side. It is here for programs that set it.
	MultiHeadProcessing bool

	// BroadcastBatchDelay is how long an announcement waits for further
	// writes to share it. 0 announces at once. Default: 0.
	BroadcastBatchDelay time.Duration

	// InlineBlockSize is the size in bytes of the largest block that travels
	// inside its first announcement, so that those who hear it need not fetch
	// it. At most 256 KiB of blocks wait to go so; more are fetched. Each peer
	// may get such an announcement several times. 0 leaves it to the
	// broadcaster: 16 KiB for a PubSubBroadcaster, none for one that is not a
	// BlockCarrier. Negative: none. Replicas need not agree. Default: 0.
	InlineBlockSize int

	// CheckDelta judges every delta before it is merged, those written here
	// too: an error refuses it, for good. The head is the block of the delta,
	// which may never become one. nil accepts all. Default: nil.
	//
	// All replicas must judge alike, and always the same: what one refuses,
	// and whatever is built on it, never completes there. Replicas that judge
	// differently, or by the time of the day, hold different pairs for ever.
	//
	// The keys of the delta are clean, and what has a key that can hold no value
	// has been left out: it is what will be merged.
	//
	// A write that is refused fails with ErrInvalidBlock and the error.
	// CheckDelta is called from several goroutines at once, also while a write
	// holds the datastore: it must not use the datastore, and must be quick. It
	// must not keep or change the delta. When ctx ends, its answer is not
	// kept; for writes that are made here ctx does not end.
	CheckDelta func(ctx context.Context, head Head, delta Delta) error

	// CheckpointEvery has a checkpoint made of the unnamed DAG once it has grown by
	// so many blocks since the last one: see Datastore.Checkpoint. Each replica for
	// which it is set counts, and waits a random while, half a RebroadcastInterval at most,
	// and the less the more of these blocks it has written itself, or the more there are:
	// mostly one of them makes it for all. It needs the default delta: NewMerkleCRDT fails if there is a DeltaFactory
	// as well. 0: only when Checkpoint is called.
	// Default: 0.
	CheckpointEvery int

	// KeepHistory is how long blocks stay that a checkpoint covers, counted from
	// when it was made, checked or taken here: then they are removed from the DAG
	// service, as Compact does at once. While a checkpoint of a peer waits to be checked here
	// they stay for up to a RebroadcastInterval longer. Peers of the old module that lack such
	// blocks cannot get them any more, everyone else takes the checkpoint. 0 keeps
	// them for ever. Default: 0.
	KeepHistory time.Duration

	// SupersedingPuts has each Put remove the versions of its key that it replaces,
	// as a Delete before it would. Without it they stay, each as a row, until a Delete
	// of the key, or until the next checkpoint removes them. Put costs a tombstone more for it, some 100 bytes, and the first one of a key
	// as many as the key has versions. Hooks of replicas of the old module are told of
	// a deletion first. Replicas need not agree. Default: false.
	SupersedingPuts bool

	// WalkHistory has this replica merge every block itself, and never take what a
	// checkpoint says of those below it. It trusts the authors of checkpoints no more than
	// anyone else, and cannot complete a history whose blocks nobody has kept.
	// Default: false.
	WalkHistory bool

	// MaxBlockSize is the size in bytes of the largest block that is written
	// or accepted; writes that need a larger one fail with ErrTooLarge. The
	// default suits bitswap, which carries no more. All replicas must agree.
	// 0 means the default: 2 MiB.
	MaxBlockSize int
}

// DefaultOptions returns new Options with every default filled in.
func DefaultOptions() *Options {
	return &Options{
		Logger:              logging.Logger("crdt"),
		RebroadcastInterval: time.Minute,
		NumWorkers:          5,
		DAGSyncerTimeout:    5 * time.Minute,
		MaxBatchDeltaSize:   1 << 20,
		RepairInterval:      time.Hour,
		MaxBlockSize:        2 << 20,
	}
}

// complete returns a checked copy in which nothing is missing. The error names
// every fault at once.
func (o *Options) complete() (*Options, error) {
	def := DefaultOptions()
	if o == nil {
		return def, nil
	}
	c := *o
	if c.Logger == nil {
		c.Logger = def.Logger
	}
	if c.MaxBlockSize == 0 {
		c.MaxBlockSize = def.MaxBlockSize
	}
	return &c, c.validate()
}

// minBlockSize leaves room for the links and the frame of a delta.
const minBlockSize = 4 << 10

func (o *Options) validate() error {
	var errs []error
	require := func(ok bool, name string, is any, should string) {
		if !ok {
			errs = append(errs, fmt.Errorf("crdt: Options.%s is %v: it must be %s", name, is, should))
		}
	}
	require(o.RebroadcastInterval > 0, "RebroadcastInterval", o.RebroadcastInterval, "greater than 0, such as 1m")
	require(o.NumWorkers > 0, "NumWorkers", o.NumWorkers, "at least 1")
	require(o.DAGSyncerTimeout >= 0, "DAGSyncerTimeout", o.DAGSyncerTimeout, "0 (no limit) or more")
	require(o.MaxBatchDeltaSize > 0, "MaxBatchDeltaSize", o.MaxBatchDeltaSize, "at least 1 byte")
	require(o.RepairInterval >= 0, "RepairInterval", o.RepairInterval, "0 (never) or more")
	require(o.CheckpointEvery >= 0, "CheckpointEvery", o.CheckpointEvery, "a number of blocks, or 0 (only when asked)")
	require(o.KeepHistory >= 0, "KeepHistory", o.KeepHistory, "0 (for ever) or more")
	require(o.BroadcastBatchDelay >= 0, "BroadcastBatchDelay", o.BroadcastBatchDelay, "0 (at once) or more")
	require(o.MaxBlockSize >= minBlockSize, "MaxBlockSize", o.MaxBlockSize, fmt.Sprintf("at least %d bytes, or 0 for the default", minBlockSize))
	return errors.Join(errs...)
}
