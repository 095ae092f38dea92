package crdt

import (
	"context"
	"fmt"
)

// checkTree fetches all pages of a tree, side by side and in one session, and checks
// them as they come. An error that is errBadSnapshot is final: the tree is malformed.
// Any other says that it is not available now.
//
// What it checks: the entries are in order, none is there twice, and there are as many as
// the root and each page say; their keys can hold values; each page begins as its parent
// says, and links to pages of the right kind alone; levels and sizes are within bounds;
// the block of every version is covered, and that of no tombstone. See pagesAhead for the
// memory that this takes.
func (s *blockStore) checkTree(ctx context.Context, root treeRoot, covered func(context.Context, blockID) (bool, error)) error {
	covers := coverMemo{ask: covered}
	for some, err := range s.readTree(ctx, root, func(*treeCursor, *subtree) bool { return false }) {
		if err != nil {
			return err
		}
		for i := range some {
			if err := checkCovered(ctx, &some[i], &covers); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkCovered checks that the block of a version is covered, and that of a tombstone is
// not.
func checkCovered(ctx context.Context, e *entry, covers *coverMemo) error {
	covered, err := covers.has(ctx, e.id)
	if err == nil && covered == e.tombstone {
		err = fmt.Errorf("%w: %s, whose block is covered: %t", errBadSnapshot, e, covered)
	}
	return err
}
