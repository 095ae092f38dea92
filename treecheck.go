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
	c := coverCheck{covered: covered, known: make(map[blockID]bool)}
	for some, err := range s.readTree(ctx, root, func(*treeCursor, *subtree) bool { return false }) {
		if err != nil {
			return err
		}
		for i := range some {
			if err := c.check(ctx, &some[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// A coverCheck asks what is covered, and remembers what has been asked last: a block may
// have many entries.
type coverCheck struct {
	covered func(context.Context, blockID) (bool, error)
	known   map[blockID]bool
}

// maxRemembered is how many answers a coverCheck remembers.
const maxRemembered = 16 << 10

func (c *coverCheck) check(ctx context.Context, e *entry) error {
	covered, known := c.known[e.id]
	if !known {
		var err error
		if covered, err = c.covered(ctx, e.id); err != nil {
			return err
		}
		if len(c.known) == maxRemembered {
			clear(c.known)
		}
		c.known[e.id] = covered
	}
	if covered == e.tombstone {
		return fmt.Errorf("%w: %s, whose block is covered: %t", errBadSnapshot, e, covered)
	}
	return nil
}
