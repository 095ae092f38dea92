package crdt

import (
	"context"
	"errors"
	"fmt"
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
	lies    boundedLog    // of these; it belongs to whoever has a job

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
func (j *checkpointJobs) acquire(ctx context.Context) error {
	j.waiting.Add(1)
	defer j.waiting.Add(-1)
	select {
	case <-j.alone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin waits until nobody else has a job, and begins one. The job's context ends when
// the DAG is to be purged: context.Cause says so. Call end at its end.
func (j *checkpointJobs) begin(ctx context.Context, dagName string) (_ context.Context, end func(), err error) {
	if err := j.acquire(ctx); err != nil {
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	j.setCurrent(&checkpointJob{dagName, cancel})
	end = func() {
		j.setCurrent(nil)
		cancel(nil)
		j.alone <- struct{}{}
	}
	if err := j.finishDrop(ctx); err != nil { // or it would remove pages that are made now
		end()
		return ctx, nil, err
	}
	return ctx, end, nil
}

// do does a job, and returns errPurging if a purge has ended it.
func (j *checkpointJobs) do(ctx context.Context, dagName string, job func(context.Context) error) error {
	ctx, end, err := j.begin(ctx, dagName)
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
func (j *checkpointJobs) doChore(ctx context.Context, dagName string, job func(context.Context) error) (did bool, err error) {
	err = j.do(ctx, dagName, job)
	if errors.Is(err, errPurging) {
		return false, nil
	}
	return err == nil, err
}

func (j *checkpointJobs) setCurrent(job *checkpointJob) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.current = job
	j.interruptLocked()
}

// interruptLocked ends a job that is in the way of a purge.
func (j *checkpointJobs) interruptLocked() {
	if j.current != nil && j.purging != nil && j.current.dagName == *j.purging {
		j.current.cancel(errPurging)
	}
}

// exclude ends the job of a DAG that is to be purged, waits for any other, and keeps
// further ones from beginning until end is called.
func (j *checkpointJobs) exclude(ctx context.Context, dagName string) (end func(), err error) {
	j.setPurging(&dagName)
	if err := j.acquire(ctx); err != nil {
		j.setPurging(nil)
		return nil, err
	}
	return func() {
		j.setPurging(nil)
		j.alone <- struct{}{}
		j.chores.wake()
	}, nil
}

func (j *checkpointJobs) setPurging(dagName *string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.purging = dagName
	j.interruptLocked()
}

// checkpoint returns what is known of a checkpoint. It is nil once its DAG has been purged.
func (j *checkpointJobs) checkpoint(id blockID) *checkpoint {
	return j.committer.frontier.checkpoints()[id]
}

// update makes a commit that has to do with a checkpoint. To change what is known of that,
// set the copy that change gets.
func (j *checkpointJobs) update(ctx context.Context, id blockID, change func(now *commit, cp *checkpoint) error) error {
	j.committer.hooks.waitWhileFull()
	return j.committer.do(ctx, func(now *commit) error {
		old := now.checkpoints.now[id]
		if old == nil {
			return errLeft
		}
		cp := *old
		return change(now, &cp)
	})
}

// avoid makes a checkpoint void.
func (j *checkpointJobs) avoid(ctx context.Context, id blockID, why error) error {
	j.lies.report(fmt.Errorf("checkpoint %s is void: %w", id.Cid(), why))
	j.voids.Add(1)
	return j.unwant(ctx, id, checkpointVoid)
}

func (j *checkpointJobs) unwant(ctx context.Context, id blockID, state checkpointState) error {
	err := j.update(ctx, id, func(now *commit, cp *checkpoint) error {
		cp.state, cp.segments = state, nil
		now.checkpoints.set(cp)
		return nil
	})
	j.committer.notify.reloaded() // what has been withheld
	return err
}
