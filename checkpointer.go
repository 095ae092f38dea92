package crdt

import "context"

// The checkpointer makes checkpoints, checks and takes those of others, and drops what
// they cover. Each of these is the job of one of its parts.
type checkpointer struct {
	*checkpointJobs
	*maker
	*verifier
	*taker
	*keeper
	repairer *repairer
	finished bool // what the last run has not removed is gone; owned by the goroutine
}

func newCheckpointer(ctx context.Context, c *committer, f *fetcher, r *repairer, opts *Options) *checkpointer {
	jobs := &checkpointJobs{chores: &chores{ctx: ctx, log: opts.Logger}, log: opts.Logger, store: c.store, blocks: c.blocks, committer: c, opts: opts, alone: make(chan struct{}, 1)}
	jobs.alone <- struct{}{}
	jobs.lies = boundedLog{write: opts.Logger.Errorf, what: "false checkpoint"}
	cp := &checkpointer{checkpointJobs: jobs, maker: &maker{checkpointJobs: jobs}, keeper: &keeper{checkpointJobs: jobs}, repairer: r}
	cp.verifier = &verifier{checkpointJobs: jobs, isWaitedFor: func() bool { return cp.isWaitedFor() || cp.isToTake() }}
	cp.keeper.isToJudge = cp.verifier.isToJudge
	cp.taker = &taker{checkpointJobs: jobs, fetcher: f, isWaitedFor: func() bool { return cp.isWaitedFor() || cp.isToVerify() }, repairer: r}
	for _, do := range []func(context.Context) (bool, error){cp.finishCutOff, cp.takeJob, cp.verifyNext, cp.makeDue, cp.dropDue, cp.thinOut} {
		jobs.chores.all = append(jobs.chores.all, &chore{do: do})
	}
	return cp
}

// isWaitedFor reports whether somebody waits for the end of what the goroutine does: a
// call, or a checkpoint to be made, or history to be dropped.
func (c *checkpointer) isWaitedFor() bool { return c.waiting.Load() > 0 || c.isDue() || c.isToDrop() }
