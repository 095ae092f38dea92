package crdt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	ipld "github.com/ipfs/go-ipld-format"
	logging "github.com/ipfs/go-log/v2"
)

var (
	_ ds.Datastore = (*Datastore)(nil)
	_ ds.Batching  = (*Datastore)(nil)
)

// Datastore is one replica. It is a go-datastore whose pairs reach every other
// replica that shares its broadcasts and its blocks.
//
// All methods may be called from any goroutine. Reads see every write that
// returned before, and never wait for the network. After Close every method
// with an error returns ErrClosed, and so does a call that Close cuts off.
type Datastore struct {
	opts     *Options
	log      logging.StandardLogger
	store    *rowStore
	blocks   *blockStore
	hooks    *hookQueue
	frontier *frontier

	committer    *committer
	writer       *writer
	fetcher      *fetcher
	merger       *merger
	announcer    *announcer
	repairer     *repairer
	checkpointer *checkpointer

	stop       context.CancelFunc // ends the context of all goroutines below
	closing    context.Context    // ends when Close is called
	abort      context.CancelFunc // ends closing
	background sync.WaitGroup

	shutdown sync.Once
	closed   atomic.Bool
	inFlight sync.WaitGroup // calls in progress
	gate     sync.RWMutex   // held to enter inFlight, and by Close to shut it
}

// New opens the replica that is kept in store under namespace, or makes it.
// Blocks are stored in and fetched through dagSyncer, heads are announced
// through bcast; a nil bcast makes a replica that neither hears nor tells of
// anything. nil opts mean the defaults.
//
// A store that was written in an older format is migrated first, which takes
// a pass over all its keys; Downgrade undoes it. One of a newer format is
// refused with ErrNewerVersion. Nothing else may write below namespace, but
// for the DAG service, if its blocks lie deeper in it, as in
// <namespace>/b/blocks/<multihash>.
//
// Call Close before closing the store, the DAG service or the broadcaster.
func New(store ds.Datastore, namespace ds.Key, dagSyncer ipld.DAGService, bcast Broadcaster, opts *Options) (*Datastore, error) {
	m, err := NewMerkleCRDT(store, namespace, dagSyncer, bcast, opts, nil)
	if err != nil {
		return nil, err
	}
	return m.Datastore, nil
}

// open builds the parts, looks after the store and starts the goroutines.
func open(store ds.Datastore, namespace ds.Key, dagSyncer ipld.DAGService, bcast Broadcaster, opts *Options, names InternalNamespaces, newDelta func() Delta) (*Datastore, error) {
	if store == nil || dagSyncer == nil {
		return nil, errors.New("crdt: New needs a store and a DAG service")
	}
	ctx, stop := context.WithCancel(context.Background())
	rows, err := newRowStore(ctx, store, newKeyspace(namespace, names))
	if err != nil {
		stop()
		return nil, err
	}
	d := &Datastore{
		opts:     opts,
		log:      opts.Logger,
		store:    rows,
		blocks:   &blockStore{service: dagSyncer, marks: rows, newDelta: newDelta, newTag: randomTag, check: opts.CheckDelta, timeout: opts.DAGSyncerTimeout, maxSize: opts.MaxBlockSize},
		hooks:    newHookQueue(opts),
		frontier: &frontier{},
		stop:     stop,
	}
	d.closing, d.abort = context.WithCancel(ctx)
	d.build(ctx, bcast)
	if err := d.prepare(ctx); err != nil {
		stop()
		d.fetcher.stop()
		d.checkpointer.chores.stop()
		return nil, err
	}
	d.start(ctx, bcast)
	return d, nil
}

func (d *Datastore) build(ctx context.Context, bcast Broadcaster) {
	classes := newSizeClasses(d.opts.NumWorkers * fetchesPerWorker)
	d.fetcher = newFetcher(ctx, d.blocks, d.opts, classes)
	d.announcer = newAnnouncer(ctx, bcast, d.frontier, d.opts)
	d.committer = newCommitter(d.store, d.blocks, d.frontier, d.hooks, callbacks{reloaded: d.fetcher.unread.ring, published: d.announcer.announce, checkpointSeen: func() { d.checkpointer.chores.wake() }}, d.log)
	d.committer.walks, d.committer.checkpointEvery = d.opts.WalkHistory, int64(d.opts.CheckpointEvery)
	d.writer = &writer{committer: d.committer, maxDelta: d.opts.MaxBatchDeltaSize, supersede: d.opts.SupersedingPuts}
	d.merger = newMerger(ctx, d.committer, d.fetcher, classes, d.log)
	d.repairer = newRepairer(d.committer, d.fetcher, d.log)
	d.checkpointer = newCheckpointer(ctx, d.committer, d.fetcher, d.repairer, d.opts)
	d.repairer.failed = d.checkpointer.chores.wake
}

// prepare brings the store into the shape that the code expects.
func (d *Datastore) prepare(ctx context.Context) error {
	if err := migrate(ctx, d.store, d.blocks, d.log); err != nil {
		return err
	}
	if err := d.committer.reloadInTurn(ctx); err != nil {
		return err
	}
	if err := d.store.foldWaiters(ctx); err != nil {
		return err
	}
	if err := d.fetcher.resume(ctx, d.committer); err != nil {
		return fmt.Errorf("crdt: reading what is missing: %w", err)
	}
	return d.store.Put(ctx, d.store.keys.open, []byte{})
}

func (d *Datastore) start(ctx context.Context, bcast Broadcaster) {
	d.committer.grown.set(d.frontier.growth())
	if len(d.frontier.checkpoints()) > 0 || d.opts.CheckpointEvery > 0 {
		d.checkpointer.chores.wake()
	}
	d.background.Go(d.merger.run)
	d.background.Go(func() { d.committer.recall(ctx) })
	d.background.Go(func() { d.repairer.run(ctx, d.opts.RepairInterval) })
	if bcast == nil {
		return
	}
	l := &listener{ctx: ctx, bcast: bcast, log: d.log, store: d.store, frontier: d.frontier, blocks: d.blocks, fetcher: d.fetcher, announcer: d.announcer}
	d.background.Go(d.announcer.run)
	d.background.Go(l.run)
	if n, ok := bcast.(JoinNotifier); ok {
		d.background.Go(func() { d.announcer.greetPeers(n, d.fetcher.kick) })
	}
}

// enter begins a call, unless the datastore is closed. Call leave at its end.
func (d *Datastore) enter() error {
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.closed.Load() {
		return ErrClosed
	}
	d.inFlight.Add(1)
	return nil
}

func (d *Datastore) leave() { d.inFlight.Done() }

// begin is enter for a call that may wait for the network: its context ends
// when Close is called. Call end at its end, with the error that is about to be returned,
// which becomes ErrClosed if that is why.
func (d *Datastore) begin(ctx context.Context) (_ context.Context, end func(*error), err error) {
	if err := d.enter(); err != nil {
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(d.closing, func() { cancel(ErrClosed) })
	return ctx, func(err *error) {
		if *err != nil && context.Cause(ctx) == ErrClosed {
			*err = fmt.Errorf("%w: %w", ErrClosed, *err)
		}
		unlink()
		cancel(nil)
		d.leave()
	}, nil
}

// Get returns the value of a key, or ds.ErrNotFound. The caller must not
// change it when the store's own Get says so.
func (d *Datastore) Get(ctx context.Context, key ds.Key) ([]byte, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	b, err := d.store.Get(ctx, d.store.keys.recordOf(key))
	if err != nil {
		return nil, err
	}
	return recordValue(b)
}

// Has reports whether a key has a value.
func (d *Datastore) Has(ctx context.Context, key ds.Key) (bool, error) {
	if err := d.enter(); err != nil {
		return false, err
	}
	defer d.leave()
	return d.store.Has(ctx, d.store.keys.recordOf(key))
}

// GetSize returns the size of a key's value in bytes, or -1 and
// ds.ErrNotFound. It does not load the value if the store can avoid that.
func (d *Datastore) GetSize(ctx context.Context, key ds.Key) (int, error) {
	if err := d.enter(); err != nil {
		return -1, err
	}
	defer d.leave()
	size, err := d.store.GetSize(ctx, d.store.keys.recordOf(key))
	if err != nil {
		return -1, err
	}
	if size < recordHeader {
		return -1, fmt.Errorf("%w of %d bytes for %s", errBadRecord, size, key)
	}
	return size - recordHeader, nil
}

// Query returns the pairs that match q. An ascending order of keys, the limit
// and the offset are left to the store where possible, so that no more is read
// than is asked for; other orders are sorted in memory. The results must be
// closed, and before the store is.
func (d *Datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	return d.store.queryRecords(ctx, q)
}

// Put sets the value of a key on all replicas. When it returns nil, the pair
// is in the store and will be announced; when it returns the error of ctx,
// nothing has been written. It fails with ErrTooLarge for a pair that does not
// fit a block, and with ErrInvalidKey for a key that can hold no value. Here, as
// in all calls, the key is cleaned as ds.NewKey does.
func (d *Datastore) Put(ctx context.Context, key ds.Key, value []byte) error {
	name, err := d.cleanKey(key)
	if err != nil {
		return err
	}
	c := &changes{}
	c.put(name, value)
	return d.write(ctx, c)
}

// Delete removes a key: the versions that this replica holds. A value that is
// put elsewhere at the same time survives. Deleting a key that is not there
// does nothing.
func (d *Datastore) Delete(ctx context.Context, key ds.Key) error {
	name, err := d.cleanKey(key)
	if err != nil {
		return err
	}
	c := &changes{}
	c.delete(name)
	return d.write(ctx, c)
}

// Batch returns an empty batch. Its writes are seen by nobody before Commit,
// which publishes them as one delta; it may be abandoned. A batch that
// outgrows Options.MaxBatchDeltaSize commits what it holds early.
func (d *Datastore) Batch(ctx context.Context) (ds.Batch, error) {
	if d.closed.Load() {
		return nil, ErrClosed
	}
	return &batch{store: d, changes: &changes{}}, nil
}

// Sync makes the store sync all that belongs to this datastore. Whether blocks
// are on disk is the DAG service's affair.
func (d *Datastore) Sync(ctx context.Context, prefix ds.Key) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.store.Sync(ctx, d.store.keys.namespace)
}

func (d *Datastore) cleanKey(key ds.Key) (string, error) {
	if d.closed.Load() {
		return "", ErrClosed
	}
	return cleanKey(key.String())
}

// checkPut refuses a value that would spoil the batch it is put into.
func (d *Datastore) checkPut(key string, value []byte) error {
	budget := d.blocks.elementBudget("", d.frontier.width(""))
	return (&change{key: key, value: value, put: true}).fit(budget)
}

func (d *Datastore) write(ctx context.Context, c *changes) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if len(c.list) == 0 {
		return ctx.Err()
	}
	return d.writer.write(ctx, c)
}

// closeTimeout bounds how long Close waits for hooks, for a last announcement
// and for a broadcaster or DAG service that does not heed its context.
const closeTimeout = 10 * time.Second

// Close ends the replica: it waits for calls in progress, except that those that
// may wait for the network are cut off, runs the hooks that are still waiting,
// announces what has not been announced, and ends all goroutines. It takes 10
// seconds at most, and returns an error when that was not enough. It does not
// close the store, the DAG service or the broadcaster.
// Closing twice is harmless: the second call waits for the first and returns
// nil. It must not be called by a hook.
func (d *Datastore) Close() (err error) {
	d.shutdown.Do(func() { err = d.close() })
	return err
}

func (d *Datastore) close() error {
	d.gate.Lock()
	d.closed.Store(true)
	d.gate.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.shutDown()
	}()
	select {
	case <-done:
		return d.settleStore(context.Background())
	case <-time.After(closeTimeout):
		d.stop()
		return fmt.Errorf("crdt: not closed cleanly: after %s there was still something running", closeTimeout)
	}
}

// settleStore leaves the store as the next New expects it.
func (d *Datastore) settleStore(ctx context.Context) error {
	if d.committer.stale { // nobody else commits any more
		if err := d.store.redo(ctx); err != nil {
			return fmt.Errorf("crdt: finishing an interrupted write: %w", err)
		}
	}
	return d.store.Delete(ctx, d.store.keys.open)
}

func (d *Datastore) shutDown() {
	d.abort()
	d.inFlight.Wait()
	d.stop()
	d.fetcher.stop()
	d.checkpointer.chores.stop()
	d.background.Wait()
	d.hooks.runRest()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout/2)
	defer cancel()
	d.announcer.announceRest(ctx)
}
