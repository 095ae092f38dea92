package crdt

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	logging "github.com/ipfs/go-log/v2"
)

// The checkpointJobs are what all jobs on checkpoints share. One goes on at a time, of a call
// or of the goroutine that does chores.
type checkpointJobs struct {
	chores    *chores
	log       logging.StandardLogger
	store     *rowStore
	blocks    *blockStore
	committer *committer
	opts      *Options

	alone   chan struct{} // holds one token; whoever takes it has a job
	waiting atomic.Int64  // how many wait for it
	voids   atomic.Uint64 // checkpoints that were found void

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

// acquire waits until nobody else has a job.
func (c *checkpointJobs) acquire(ctx context.Context) error {
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
func (c *checkpointJobs) begin(ctx context.Context, dagName string) (_ context.Context, end func(), err error) {
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
func (c *checkpointJobs) do(ctx context.Context, dagName string, job func(context.Context) error) error {
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

// doChore does a job of the goroutine. One that a purge has ended is not done, and no
// failure.
func (c *checkpointJobs) doChore(ctx context.Context, dagName string, job func(context.Context) error) (did bool, err error) {
	err = c.do(ctx, dagName, job)
	if errors.Is(err, errPurging) {
		return false, nil
	}
	return err == nil, err
}

func (c *checkpointJobs) setCurrent(j *checkpointJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = j
	c.interruptLocked()
}

// interruptLocked ends a job that is in the way of a purge.
func (c *checkpointJobs) interruptLocked() {
	if c.current != nil && c.purging != nil && c.current.dagName == *c.purging {
		c.current.cancel(errPurging)
	}
}

// exclude ends the job of a DAG that is to be purged, waits for any other, and keeps
// further ones from beginning until end is called.
func (c *checkpointJobs) exclude(ctx context.Context, dagName string) (end func(), err error) {
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

func (c *checkpointJobs) setPurging(dagName *string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purging = dagName
	c.interruptLocked()
}
