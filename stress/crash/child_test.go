package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/blockstore"
	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	ipld "github.com/ipfs/go-ipld-format"
)

// childVariable has the configuration of a child process. With it set, this
// program is one.
const childVariable = "CRDT_CRASH_CHILD"

// A childConfig says which replica a child is.
type childConfig struct {
	Store, Dir string
	Options    replicaOptions
}

// replicaOptions are what is varied of crdt.Options.
type replicaOptions struct {
	NumWorkers, InlineBlockSize, MaxBatchDeltaSize int
	CheckpointEvery                                int
	KeepHistory                                    time.Duration
	SupersedingPuts                                bool
}

// rebroadcast is short, so that what a kill made get lost is soon said again.
const rebroadcast = 200 * time.Millisecond

func (o replicaOptions) options() *crdt.Options {
	opts := crdt.DefaultOptions()
	opts.RebroadcastInterval = rebroadcast
	opts.NumWorkers = o.NumWorkers
	opts.InlineBlockSize = o.InlineBlockSize
	opts.MaxBatchDeltaSize = o.MaxBatchDeltaSize
	opts.CheckpointEvery = o.CheckpointEvery
	opts.KeepHistory = o.KeepHistory
	opts.SupersedingPuts = o.SupersedingPuts
	return opts
}

// A child is the process that gets killed.
type child struct {
	*conn
	ctx     context.Context
	link    *link
	store   ds.Batching
	replica *crdt.MerkleCRDT
	opened  chan struct{} // closed when there is a replica

	lastID atomic.Uint64 // of an operation
}

// runChild is the main function of a child process. It ends the process when it
// is told to close, and returns with an error alone.
func runChild(config string) error {
	var cfg childConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	c := &child{conn: newConn(os.Stdin, os.Stdout), opened: make(chan struct{}), ctx: context.Background()}
	os.Stdout = os.Stderr // the messages alone go to the pipe
	if err := c.open(cfg); err != nil {
		return c.fail(err)
	}
	select {} // serve and answer go on
}

func (c *child) fail(err error) error {
	return errors.Join(err, c.send(message{Kind: broken, Error: err.Error()}))
}

// must ends the process on an error.
func (c *child) must(err error) {
	if err != nil {
		log.Fatal(c.fail(err))
	}
}

func (c *child) open(cfg childConfig) (err error) {
	if c.store, err = openStore(cfg.Store, cfg.Dir); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	bs := blockstore.NewBlockstore(c.store)
	c.link = newLink(bs)
	c.link.connect(c.conn)
	go func() { c.must(c.serve()) }()
	if err := c.send(message{Kind: opened}); err != nil {
		return err
	}
	dag := &readReporter{DAGService: newDAGService(bs, c.link), rows: c.store, report: c.reportRead}
	if c.replica, err = crdt.NewMerkleCRDT(c.store, namespace, dag, c.link, cfg.Options.options(), nil); err != nil {
		return fmt.Errorf("opening the replica: %w", err)
	}
	close(c.opened)
	return c.send(message{Kind: ready})
}

func (c *child) reportRead(id cid.Cid, merged bool) {
	_ = c.send(message{Kind: read, Data: id.Bytes(), Found: merged})
}

// serve does what the parent asks for.
func (c *child) serve() error {
	for {
		m, err := c.receive()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the parent has gone")
		case err != nil:
			return err
		case c.link.receive(m):
		case m.Kind == closeDown:
			go c.closeDown()
		default:
			go c.answer(m)
		}
	}
}

func (c *child) closeDown() {
	<-c.opened
	_ = c.send(message{Kind: closing})
	c.must(errors.Join(c.replica.Close(), c.store.Close()))
	os.Exit(0)
}

func (c *child) answer(m message) {
	<-c.opened
	answer, err := c.do(m)
	answer.Kind, answer.ID = reply, m.ID
	if err != nil {
		answer.Error = err.Error()
	}
	_ = c.send(answer)
}

func (c *child) do(m message) (answer message, err error) {
	switch m.Kind {
	case startLoad:
		c.startWriters(m.Load)
	case apply:
		err = m.Op.apply(c.ctx, c.replica)
	case tellState:
		answer.State = stateOf(c.replica)
	case tellPairs:
		answer.Pairs, err = pairsOf(c.replica)
	case inspect:
		c.link.disconnect() // what is missing must not be fetched
		err = inspectDAG(c.replica)
	case tellRoot:
		answer.Data, err = rootOf(c.replica)
	default:
		err = fmt.Errorf("there is no message %d", m.Kind)
	}
	return answer, err
}

func (c *child) startWriters(l load) {
	c.lastID.Store(l.FirstID)
	for _, w := range l.writers(c.replica, c, func() uint64 { return c.lastID.Add(1) }) {
		go func() {
			if err := w.run(c.ctx, func() bool { return false }); !errors.Is(err, crdt.ErrClosed) {
				c.must(err)
			}
		}()
	}
	if l.Checkpoints {
		go func() { c.must(c.compactForEver()) }()
	}
}

// compactForEver makes one checkpoint after the other, and drops what they cover.
func (c *child) compactForEver() error {
	for {
		err := compact(c.replica)
		if errors.Is(err, crdt.ErrClosed) || errors.Is(err, context.Canceled) { // Close ends what goes on
			return nil
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // all the rest needs the processor, too
	}
}

// compact makes a checkpoint, if there is anything to make one of, and drops what it
// covers.
func compact(r *crdt.MerkleCRDT) error {
	ctx := context.Background()
	if heads, _, err := r.Heads().List(ctx); err != nil || len(heads) == 0 {
		return err
	}
	_, err := r.Checkpoint(ctx)
	if err == nil {
		_, err = r.Compact(ctx)
	}
	return err
}

func (c *child) begin(id uint64, op operation) { _ = c.send(message{Kind: begun, ID: id, Op: op}) }
func (c *child) end(id uint64)                 { _ = c.send(message{Kind: acked, ID: id}) }

func stateOf(r *crdt.MerkleCRDT) state {
	stats := r.InternalStats(context.Background())
	s := state{Height: stats.MaxHeight, Jobs: stats.QueuedJobs, Dirty: r.IsDirty(context.Background())}
	for _, h := range stats.Heads {
		s.Heads = append(s.Heads, h.Cid.String())
	}
	slices.Sort(s.Heads)
	return s
}

func pairsOf(r *crdt.MerkleCRDT) (map[string]string, error) {
	pairs := make(map[string]string)
	for e, err := range ds.QueryIter(context.Background(), r, query.Query{}) {
		if err != nil {
			return nil, err
		}
		pairs[e.Key] = brief(string(e.Value))
	}
	return pairs, nil
}

// inspectDAG checks that the history of the heads is whole: every block has been merged,
// and is there, unless a checkpoint stands for it.
func inspectDAG(r *crdt.MerkleCRDT) error {
	ctx := context.Background()
	heads, _, err := r.Heads().List(ctx)
	if err != nil {
		return err
	}
	return r.Traverse(ctx, cidsOf(heads), func(n ipld.Node) error {
		merged, err := r.IsProcessed(ctx, n.Cid())
		if err == nil && !merged {
			err = fmt.Errorf("block %s is below a head and has not been merged", n.Cid())
		}
		return err
	})
}

func rootOf(r *crdt.MerkleCRDT) ([]byte, error) {
	root, err := r.StateRoot(context.Background())
	return root.Bytes(), err
}

func cidsOf(heads []crdt.Head) []cid.Cid {
	ids := make([]cid.Cid, len(heads))
	for i, h := range heads {
		ids[i] = h.Cid
	}
	return ids
}
