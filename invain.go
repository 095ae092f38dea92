package crdt

import "context"

// What comes below a checkpoint once the take of that has begun is not merged: no row says that
// it is here, and a drop would not find it. So it is kept in mind, and removed once the
// checkpoint is held. Only blocks that were asked for here, or have come with their
// announcement, and that might have been merged are: a false checkpoint can cover whatever
// its author likes, such as what others have put into the same DAG service.

// maxInVain is how many are kept in mind. Others stay.
const maxInVain = 1024

// noteInVain takes notice of a block that has come, and is not merged.
func (f *fetcher) noteInVain(a *arrival) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.block != nil && len(f.inVain) < maxInVain {
		setIn(&f.inVain, a.block.id, true)
	}
}

// takeInVain returns these blocks, and forgets them.
func (f *fetcher) takeInVain() map[blockID]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	blocks := f.inVain
	f.inVain = nil
	return blocks
}

// removeInVain removes those in the cover of a checkpoint that was taken. Where history is
// never dropped they stay.
func (t *taker) removeInVain(ctx context.Context, cp *checkpoint) error {
	blocks := t.fetcher.takeInVain()
	if t.opts.KeepHistory == 0 || len(blocks) == 0 {
		return nil
	}
	pages, err := t.pageIDs(ctx)
	if err != nil {
		return err
	}
	for id := range blocks {
		in, err := t.store.inSegments(ctx, cp.segments, id)
		if err == nil && in && !pages[id] {
			in, err = t.store.isGone(ctx, id) // or it has been merged, and others may have to be told
		}
		if err == nil && in {
			_, err = t.blocks.removeAll(ctx, []blockID{id})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
