package crdt

import (
	"context"
	"time"
)

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

func (r *briefReader) get(ctx context.Context, id blockID) ([]byte, error) {
	began := time.Now()
	soon, cancel := context.WithTimeout(ctx, max(lostPatience-r.waited, lostBriefly))
	defer cancel()
	raw, err := r.blocks.fetch(soon, r.blocks.service, link{id: id})
	if err != nil {
		r.waited += time.Since(began)
	}
	return raw, err
}

// getMerged reads the delta of a block that has been merged.
func (r *briefReader) getMerged(ctx context.Context, id blockID) (*block, error) {
	raw, err := r.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.blocks.decodeMerged(id, raw)
}
