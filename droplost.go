package crdt

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Blocks that should be here may be lost: as the datastore was put back to an older copy, for
// example, or they were. Those that a checkpoint covers are dropped all the same. What
// they gave to keys, as far as it may be live, is in the snapshot.

// maxLost is how many lost blocks are dropped at a time.
const maxLost = 64 << 10

// lose has a block be dropped that cannot be read.
func (d *drop) lose(ctx context.Context, id blockID) error {
	if setIn(&d.lost, id, true); len(d.lost) < d.committer.most(maxLost) {
		return nil
	}
	return d.dropLost(ctx)
}

// dropLost drops the lost blocks, unless a page is lost, too: then they stay.
func (d *drop) dropLost(ctx context.Context) error {
	lost := d.lost
	d.lost = nil
	if len(lost) == 0 {
		return nil
	}
	err := d.addSnapshots(ctx, lost)
	if errors.Is(err, errNoPage) && ctx.Err() == nil {
		d.unread = fmt.Errorf("crdt: %d blocks that cannot be read stay: %w", len(lost), err)
		return nil
	}
	for id := range lost {
		if err == nil {
			err = d.addBlock(ctx, id, 0)
		}
	}
	if err != nil {
		return err
	}
	return d.remove(ctx)
}

// addSnapshots adds the values that stand in lost blocks.
func (d *drop) addSnapshots(ctx context.Context, lost map[blockID]bool) error {
	coming, end := d.whilePagesCome(ctx, nil)
	defer end()
	for _, cp := range d.below {
		for e, err := range d.blocks.treeEntries(coming, cp.snapshot.tree(), 0) {
			if err == nil && lost[e.id] && !e.tombstone {
				err = d.addValue(ctx, versionOf{e.key, version{id: e.id, priority: e.priority, value: e.value}})
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// A briefReader reads blocks that may be lost. It waits for them so long all in all, and
// once that has passed only briefly for each: to wait for one that is here, on a busy machine.
type briefReader struct {
	blocks *blockStore
	waited time.Duration // in vain
}

const (
	lostPatience = 10 * time.Second
	lostBriefly  = 100 * time.Millisecond
)

func (r *briefReader) getMerged(ctx context.Context, id blockID) (*block, error) {
	began := time.Now()
	soon, cancel := context.WithTimeout(ctx, max(lostPatience-r.waited, lostBriefly))
	defer cancel()
	b, err := r.blocks.getMerged(soon, id)
	if err != nil {
		r.waited += time.Since(began)
	}
	return b, err
}
