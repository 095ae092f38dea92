package crdt

import (
	"context"
	"maps"
	"time"
)

// What Options.KeepHistory asks for: once a checkpoint has been held for that long, what
// it covers is dropped.

// A keeper keeps history and checkpoints for as long as is asked for. Its fields belong to
// the goroutine.
type keeper struct {
	*checkpointJobs
	isToJudge func(ctx context.Context, dagName string) (bool, error) // whether any checkpoint of a DAG is to be checked
	dropped   map[blockID]bool                                        // checkpoints below which history has been dropped
	thinned   checkpoints                                             // those that were held when none of them was to be retired
}

// dropDue drops, in one DAG, what has been covered for long enough. If there is nothing
// yet, it has the checkpointer woken when there will be. For a while it waits for the
// checkpoints of others to be checked, which may have been made at about the same time: that
// takes the blocks below them.
func (k *keeper) dropDue(ctx context.Context) (did bool, err error) {
	next, due := k.nextDue()
	if next == nil || !k.chores.isTime(due) {
		return false, nil
	}
	switch any, err := k.isToJudge(ctx, next.tip.DAGName); {
	case err != nil:
		return false, err
	case any && !k.chores.isTime(due.Add(k.opts.RebroadcastInterval)):
		return false, nil
	}
	return k.doChore(ctx, next.tip.DAGName, func(ctx context.Context) error { return k.dropNow(ctx, next.tip.DAGName) })
}

func (k *keeper) dropNow(ctx context.Context, dagName string) error {
	at := time.Now().Add(-k.opts.KeepHistory)
	known := k.committer.frontier.checkpoints()
	done, unread, err := k.drop(ctx, dagName, at)
	if err != nil {
		return err
	}
	if unread != nil {
		k.log.Warnf("dropping history: %s", unread) // tried again with the next checkpoint
	}
	if done != (Compaction{}) {
		k.log.Infof("dropped %d blocks, %d rows and %d bytes of the history of DAG %q", done.Blocks, done.Rows, done.Bytes, dagName)
	}
	maps.DeleteFunc(k.dropped, func(id blockID, _ bool) bool { return known[id] == nil })
	for _, cp := range known.heldAt(dagName, at) {
		setIn(&k.dropped, cp.id, true)
	}
	return nil
}

// nextDue returns the checkpoint that has been held longest of those below which nothing
// has been dropped yet, in this run, and when that is due.
func (k *keeper) nextDue() (next *checkpoint, due time.Time) {
	if k.opts.KeepHistory == 0 {
		return nil, due
	}
	for id, cp := range k.committer.frontier.checkpoints() {
		if cp.state == checkpointHeld && !k.dropped[id] && (next == nil || cp.since.Before(next.since)) {
			next = cp
		}
	}
	if next == nil {
		return nil, due
	}
	return next, next.since.Add(k.opts.KeepHistory)
}

// isToDrop reports whether any history is to be dropped now.
func (k *keeper) isToDrop() bool {
	next, due := k.nextDue()
	return next != nil && !time.Now().Before(due)
}
