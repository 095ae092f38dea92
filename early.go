package crdt

import "context"

// A version is early if it is here before its block has been merged: it came with a
// checkpoint that is being taken, or whose take was left, or it is a claim of a summary.
// It is stored with its value, and with keepValue set. What is left of a DAG that is being
// purged is removed like one.

// addEarly adds a version that a checkpoint carries, unless its tombstone is here. Its
// block may never come.
func (c *setChange) addEarly(ctx context.Context, e *entry) error {
	dead, err := c.hasTombstone(ctx, versionName{e.key, e.id})
	if err != nil || dead {
		return err
	}
	k, err := c.load(ctx, e.key)
	if err == nil && !k.wonBy(e.id) {
		k.claim(version{id: e.id, priority: e.priority, value: e.value, keepValue: true})
	}
	return err
}

// removeEarly removes a version that may be here though its block is not merged: a claim,
// one that came with a checkpoint, or one that is being purged.
func (c *setChange) removeEarly(ctx context.Context, k *keyChange, id blockID) error {
	if c.purge.hides(id) {
		k.remove(id)
		return nil
	}
	_, claimed, err := c.claimedBy(ctx, versionName{k.key, id})
	if err != nil {
		return err
	}
	if claimed {
		c.removeClaim(k, id)
		return nil
	}
	if !c.mayHaveEarly {
		return nil
	}
	here, err := c.find(ctx, k, id)
	if here != nil {
		k.remove(id)
	}
	return err
}
