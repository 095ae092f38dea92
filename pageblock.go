package crdt

import (
	"context"
	"errors"
	"slices"
)

// A page may also be a block. Peers can announce a page that can be read as a delta, such as
// that of an empty snapshot; and the value that a raw page holds may be the bytes of a block,
// which many blockstores take for one and the same. So what is not needed any more as the
// one stays as long as it is needed as the other.
//
// To refuse such a block would not do: old replicas merge it, and build on it.

// pageIDs returns the ids of all pages of the checkpoints that must be here, but for what
// lost pages would tell of.
func (j *checkpointJobs) pageIDs(ctx context.Context) (map[blockID]bool, error) {
	ids := make(map[blockID]bool)
	for _, cp := range j.committer.frontier.checkpoints() {
		if !cp.hasPages() {
			continue
		}
		err := j.eachPage(ctx, cp, func(n pageName) { ids[n.id] = true })
		if ctx.Err() != nil || err != nil && !errors.Is(err, errNoPage) {
			return nil, err
		}
	}
	return ids, nil
}

// withoutPages returns those of some blocks that may be removed from the DAG service.
func withoutPages(ids []blockID, pages map[blockID]bool) []blockID {
	return slices.DeleteFunc(slices.Clone(ids), func(id blockID) bool { return pages[id] })
}

// withoutBlocks returns those of some pages that are no merged blocks with a mark of their own.
func (j *checkpointJobs) withoutBlocks(ctx context.Context, pages []pageName) ([]pageName, error) {
	var failed error
	alone := slices.DeleteFunc(pages, func(n pageName) bool {
		m, err := j.store.markRow(ctx, n.id)
		failed = errors.Join(failed, err)
		return err == nil && m.state.merged()
	})
	return alone, failed
}
