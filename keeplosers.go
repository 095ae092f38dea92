package crdt

import (
	"context"
	"errors"
	"fmt"

	query "github.com/ipfs/go-datastore/query"
)

// The value of a winner stands in its record, and that of a loser in its block alone, as a
// rule. So before covered blocks are dropped one pass over the rows of losers keeps the
// values of theirs. As soon as a checkpoint is held, a covered version that comes to lose
// is stored with its value (setChange.keepCovered): nothing is missed that moves between
// the record and these rows meanwhile. No record is read: to look up what each dropped block
// gave to each of its keys took two thirds of the time of a checkpoint and its drop.
//
// A block may be lost: as the datastore was put back to an older copy, for example, or
// the DAG service was. What it gave to losers is in the snapshot. If pages of that are lost,
// too, the block stays, as it may be found again.
//
// A loser that is neither in its block nor in a snapshot goes. Rows of the old module and
// repairs by hand may leave such. Once the block was gone, who removes the winner would look
// for the value for ever.

// A versionOf is a version with its key.
type versionOf struct {
	key string
	version
	none bool // there is none: the block gives nothing to the key
}

func noVersion(n versionName) versionOf {
	return versionOf{key: n.key, version: version{id: n.id}, none: true}
}

// keptValues are what a drop knows of the values to keep.
type keptValues struct {
	next     []versionOf          // to be kept by the next commit
	bytes    int                  // in these
	lost     map[versionName]bool // whose blocks cannot be read, or do not have them; false: found in a snapshot
	lostKeys int                  // bytes of their keys
	staying  map[blockID]bool     // blocks of such that are not in a snapshot that can be read
}

// What one commit of a drop looks at, at most, as writes wait for it; and how many losers
// are held, to be read block by block, and of those that are lost.
const (
	maxKeptVersions = 256
	maxKeptBytes    = 1 << 20
	maxReadLosers   = 16 << 10
	maxReadBytes    = 4 << 20 // of their keys
	maxLost         = 64 << 10
	maxLostBytes    = 16 << 20 // of their keys
)

// keepLosers keeps the values of live versions that stand in covered blocks alone.
func (d *drop) keepLosers(ctx context.Context) error {
	covers := coverMemo{ask: func(ctx context.Context, id blockID) (bool, error) { return d.store.inSegments(ctx, d.segments, id) }}
	var some []versionName
	size := 0
	for e, err := range d.store.rowsOf(ctx, d.store.keys.losers, 2, false) {
		if err != nil {
			return err
		}
		n, needed, err := needsBlock(ctx, e, &covers)
		if err != nil {
			return err
		}
		if !needed {
			continue
		}
		if some, size = append(some, n), size+len(n.key); len(some) < d.committer.most(maxReadLosers) && size < maxReadBytes {
			continue
		}
		if err := d.keepSome(ctx, some); err != nil {
			return err
		}
		some, size = some[:0], 0
	}
	if err := d.keepSome(ctx, some); err != nil {
		return err
	}
	return d.keepLost(ctx)
}

// needsBlock reports whether the value of a loser stands in a covered block alone.
func needsBlock(ctx context.Context, row query.Entry, covers *coverMemo) (versionName, bool, error) {
	n, ok := parseLoser(row.Key)
	if !ok {
		return n, false, nil
	}
	l, err := decodeLoser(n.id, row.Value)
	if err != nil || l.keepValue {
		return n, false, err
	}
	covered, err := covers.has(ctx, n.id)
	return n, covered, err
}

// keepSome keeps the values of some losers. It reads each block once.
func (d *drop) keepSome(ctx context.Context, some []versionName) error {
	for id, names := range namesByBlock(some) {
		b, err := d.reader.getMerged(ctx, id)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			err = d.lose(ctx, names...)
		default:
			err = d.keepValues(ctx, b.versions(), names)
		}
		if err != nil {
			return err
		}
	}
	return d.flushKept(ctx)
}

func (d *drop) keepValues(ctx context.Context, versions map[string]*loser, names []versionName) error {
	for _, n := range names {
		var err error
		if l := versions[n.key]; l != nil {
			err = d.keepValue(ctx, versionOf{key: n.key, version: l.version})
		} else {
			err = d.lose(ctx, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepValue has the store keep the value of a loser, in a commit of bounded size.
func (d *drop) keepValue(ctx context.Context, v versionOf) error {
	kept := &d.values
	kept.next = append(kept.next, v)
	if kept.bytes += len(v.value); len(kept.next) < d.committer.most(maxKeptVersions) && kept.bytes < maxKeptBytes {
		return nil
	}
	return d.flushKept(ctx)
}

func (d *drop) flushKept(ctx context.Context) error {
	kept := &d.values
	if len(kept.next) == 0 {
		return nil
	}
	err := d.committer.do(ctx, func(c *commit) error {
		if err := c.set.loadAhead(ctx, keysBy(kept.next, func(v versionOf) string { return v.key })); err != nil {
			return err
		}
		for _, v := range kept.next {
			if err := c.set.keepLosing(ctx, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		kept.next, kept.bytes = kept.next[:0], 0
	}
	return err
}

// keepLosing stores the value of a version, if it is live and loses. If there is no such
// version, it removes the loser.
func (c *setChange) keepLosing(ctx context.Context, v versionOf) error {
	k, err := c.load(ctx, v.key)
	if err != nil || k.wonBy(v.id) || !k.mayHaveLosers {
		return err
	}
	l, err := c.find(ctx, k, v.id)
	if err != nil || l == nil || l.keepValue {
		return err
	}
	if v.none {
		k.remove(v.id)
		return nil
	}
	v.keepValue = true
	k.setLoser(v.id, &loser{version: v.version, hasValue: true})
	return nil
}

// keepCovered stores the values of those versions that lose in this commit whose blocks
// are covered, and may be dropped; or were, and are being purged: a version may win once
// more before it is forgotten.
func (c *setChange) keepCovered(ctx context.Context, purged []segment) error {
	if c.store.covers.none() && len(purged) == 0 {
		return nil
	}
	covers := coverMemo{ask: func(ctx context.Context, id blockID) (bool, error) {
		if covered, err := c.store.covered(ctx, id); covered || err != nil {
			return covered, err
		}
		return c.store.inSegments(ctx, purged, id)
	}}
	for _, k := range c.order {
		for id, l := range k.losers {
			if l == nil || !l.hasValue || l.keepValue {
				continue
			}
			covered, err := covers.has(ctx, id)
			if err != nil {
				return err
			}
			l.keepValue = covered
		}
	}
	return nil
}

// lose notes losers of a block that cannot be read, or does not have them.
func (d *drop) lose(ctx context.Context, names ...versionName) error {
	for _, n := range names {
		setIn(&d.values.lost, n, true)
		d.values.lostKeys += len(n.key)
	}
	if len(d.values.lost) < d.committer.most(maxLost) && d.values.lostKeys < maxLostBytes {
		return nil
	}
	return d.keepLost(ctx)
}

// keepLost keeps the values of losers that were not found in their blocks.
func (d *drop) keepLost(ctx context.Context) error {
	lost := d.values.lost
	if d.values.lost, d.values.lostKeys = nil, 0; len(lost) == 0 {
		return nil
	}
	err := d.keepFromSnapshots(ctx, lost)
	if err == nil || !errors.Is(err, errNoPage) || ctx.Err() != nil {
		return err
	}
	for n := range lost {
		setIn(&d.values.staying, n.id, true)
	}
	d.unread = fmt.Errorf("crdt: %d blocks that cannot be read stay: %w", len(d.values.staying), err)
	if len(d.values.staying) > maxLost {
		return d.unread
	}
	return nil
}

// keepFromSnapshots keeps the values of lost losers, and then removes those that no snapshot
// has: of these nothing may depend on a value that is still to be kept.
func (d *drop) keepFromSnapshots(ctx context.Context, lost map[versionName]bool) error {
	coming, end := d.blocks.whilePagesCome(ctx, nil)
	defer end()
	for _, cp := range d.below {
		for e, err := range d.blocks.treeEntries(coming, cp.snapshot.tree(), 0) {
			if err != nil {
				return err
			}
			n := versionName{e.key, e.id}
			if e.tombstone || !lost[n] {
				continue
			}
			lost[n] = false
			if err := d.keepValue(ctx, e.versionOf()); err != nil {
				return err
			}
		}
	}
	if err := d.flushKept(ctx); err != nil {
		return err
	}
	for n, missing := range lost {
		if !missing {
			continue
		}
		if err := d.keepValue(ctx, noVersion(n)); err != nil {
			return err
		}
	}
	return d.flushKept(ctx)
}
