package crdt

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// The checkpointer makes checkpoints, checks and takes those of others, and drops what
// they cover. One job goes on at a time, of a call or of its goroutine, which is there
// only while there is something to do.
type checkpointer struct {
	chores    *chores
	log       logging.StandardLogger
	store     *rowStore
	blocks    *blockStore
	committer *committer
	fetcher   *fetcher
	repairer  *repairer
	opts      *Options

	alone   chan struct{} // holds one token; whoever takes it has a job
	waiting atomic.Int64  // how many wait for it
	voids   atomic.Uint64 // checkpoints that were found void

	// Owned by the goroutine:
	finished  bool                  // what the last run has not removed is gone
	undecided map[blockID]time.Time // checkpoints that could not be checked, and when one was held last then
	rest      time.Time             // until when none is checked, as some were in vain
	vain      bool                  // the last one was checked in vain
	due       time.Time             // when the next one is to be made; zero: not yet
	deferred  bool                  // that is once more, for one of a peer
	dropped   map[blockID]bool      // checkpoints below which history has been dropped
	thinned   checkpoints           // those that were held when none of them was to be dropped
	putOff    map[blockID]putOff    // checkpoints that could not be taken
	vainTake  bool                  // the last one could not

	mu      sync.Mutex
	current *checkpointJob // of the holder of alone
	purging *string        // the DAG of a purge that has the token or waits for it
}

// A checkpointJob is work on the checkpoints of a DAG that is going on.
type checkpointJob struct {
	dagName string
	cancel  context.CancelCauseFunc
}

// errPurging ends a job when its DAG is to be purged.
var errPurging = errors.New("crdt: the DAG is being purged: begin anew")

func newCheckpointer(ctx context.Context, c *committer, f *fetcher, opts *Options) *checkpointer {
	cp := &checkpointer{chores: &chores{ctx: ctx, log: opts.Logger}, log: opts.Logger, store: c.store, blocks: c.blocks, committer: c, fetcher: f, opts: opts, alone: make(chan struct{}, 1)}
	cp.alone <- struct{}{}
	for _, do := range []func(context.Context) (bool, error){cp.finishCutOff, cp.takeJob, cp.verifyNext, cp.makeDue, cp.dropDue, cp.thinOut} {
		cp.chores.all = append(cp.chores.all, &chore{do: do})
	}
	return cp
}

// acquire waits until nobody else has a job.
func (c *checkpointer) acquire(ctx context.Context) error {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case <-c.alone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin waits until nobody else has a job, and begins one. The job's context ends when
// the DAG is to be purged: context.Cause says so. Call end at its end.
func (c *checkpointer) begin(ctx context.Context, dagName string) (_ context.Context, end func(), err error) {
	if err := c.acquire(ctx); err != nil {
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.setCurrent(&checkpointJob{dagName, cancel})
	end = func() {
		c.setCurrent(nil)
		cancel(nil)
		c.alone <- struct{}{}
	}
	if err := c.finishDrop(ctx); err != nil { // or it would remove pages that are made now
		end()
		return ctx, nil, err
	}
	return ctx, end, nil
}

// do does a job, and returns errPurging if a purge has ended it.
func (c *checkpointer) do(ctx context.Context, dagName string, job func(context.Context) error) error {
	ctx, end, err := c.begin(ctx, dagName)
	if err != nil {
		return err
	}
	defer end()
	if err = job(ctx); err != nil && context.Cause(ctx) == errPurging {
		return errPurging
	}
	return err
}

func (c *checkpointer) setCurrent(j *checkpointJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = j
	c.interruptLocked()
}

// interruptLocked ends a job that is in the way of a purge.
func (c *checkpointer) interruptLocked() {
	if c.current != nil && c.purging != nil && c.current.dagName == *c.purging {
		c.current.cancel(errPurging)
	}
}

// exclude ends the job of a DAG that is to be purged, waits for any other, and keeps
// further ones from beginning until end is called.
func (c *checkpointer) exclude(ctx context.Context, dagName string) (end func(), err error) {
	c.setPurging(&dagName)
	if err := c.acquire(ctx); err != nil {
		c.setPurging(nil)
		return nil, err
	}
	return func() {
		c.setPurging(nil)
		c.alone <- struct{}{}
		c.chores.wake()
	}, nil
}

func (c *checkpointer) setPurging(dagName *string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purging = dagName
	c.interruptLocked()
}
