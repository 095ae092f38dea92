package crdt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-ds-crdt/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// A summary is a block that stands for a whole history, so that newcomers need
// not fetch it. Other implementations write them; this one reads them alone.
//
// Each element is a claim: that some older block gave this value to this key, at
// this priority. While that block is not merged here, the claim is a version like
// any other, named by the older block; its value is kept in the store when it
// loses, as there is no block to read it from. When the block is merged, it is
// known what it gave, and all claims about it go. So the order does not matter.
//
// A claim row says which versions are claims, and whose. It is found by the
// block that the claim is about: that may give the key nothing at all.
//
// The links of a summary are what it sums up. They may lead to blocks that nobody
// has any more: they are neither fetched nor waited for, and followed only where
// the block is known. None of them is a head beside the summary, not even when it
// comes later, with what somebody built on it who had not heard of the summary.

// summaryField is the number of Delta.snapshot.
const summaryField = 5

var errNoVersion = errors.New("crdt: an element of a summary names no version")

// readClaims turns the elements of a summary into claims. Those that name no
// version are left out.
func (c *deltaContent) readClaims() {
	ours, ok := c.from.(*pbDelta)
	if !ok || !ours.GetSnapshot() {
		return
	}
	c.summary = true
	for _, e := range c.elements {
		if _, ok := parseDsKey(e.GetId()); ok && e.GetPriority() > 0 {
			c.claims = append(c.claims, e)
			continue
		}
		if c.void++; c.fault == nil {
			c.fault = fmt.Errorf("%w: %s of %.100q at priority %d", errNoVersion, e.GetKey(), e.GetId(), e.GetPriority())
		}
		c.changed = true
	}
	c.elements = nil
}

// asSummary takes the links of a block for those of a summary.
func (b *block) asSummary() { b.links, b.skips, b.summed = nil, 0, b.links }

// peek reports whether a node's delta is a summary, and whether it has the field of
// checkpoints, without decoding it.
func (s *blockStore) peek(raw []byte) (summary, checkpoint bool) {
	if _, ours := s.newDelta().(*pbDelta); !ours {
		return false, false
	}
	_ = eachField(raw, dataField, func(delta []byte) error { // what is malformed has no links either
		for len(delta) > 0 {
			num, typ, n := protowire.ConsumeField(delta)
			if n < 0 {
				return protowire.ParseError(n)
			}
			switch {
			case num == summaryField && typ == protowire.VarintType:
				_, _, tag := protowire.ConsumeTag(delta)
				v, _ := protowire.ConsumeVarint(delta[tag:])
				summary = protowire.DecodeBool(v)
			case num == checkpointField && typ == protowire.BytesType:
				checkpoint = true
			}
			delta = delta[n:]
		}
		return nil
	})
	return summary, checkpoint
}

// below returns the blocks to read after a block, on the way down: its links, or what a
// summary sums up and is here.
func (s *blockStore) below(ctx context.Context, b *block) ([]blockID, error) {
	ids := slices.Clip(b.links)
	for _, id := range b.summed {
		here, err := s.marks.isHere(ctx, id)
		if err != nil {
			return nil, err
		}
		if here {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// claimNow is what a commit does to a claim.
type claimNow struct {
	by  blockID // the summary
	put bool
}

// errClaimOnHidden says that a summary has to wait for the end of a purge, or a take. Until
// then it is not known which versions of the hidden blocks are to stay removed.
var errClaimOnHidden = errors.New("crdt: it tells of a block that is being purged, or taken with a checkpoint")

// checkClaims lets a summary wait that claims something of a hidden block.
func (c *commit) checkClaims(ctx context.Context, d *deltaContent) error {
	for _, e := range d.claims {
		id, _ := parseDsKey(e.GetId())
		if hidden, err := c.dag.hides(ctx, id); err != nil {
			return err
		} else if hidden {
			return fmt.Errorf("%w: %s", errClaimOnHidden, id.Cid())
		}
	}
	return nil
}

// claim adds a version that a summary tells of, unless its block is merged or its
// tombstone is here. Of several claims about one version the greatest counts.
func (c *setChange) claim(ctx context.Context, by blockID, e *pb.Element, merged func(context.Context, blockID) (bool, error)) error {
	id, _ := parseDsKey(e.GetId())
	n := versionName{e.GetKey(), id}
	if known, err := merged(ctx, id); err != nil || known || id == by {
		return err
	}
	if dead, err := c.hasTombstone(ctx, n); err != nil || dead {
		return err
	}
	k, err := c.load(ctx, n.key)
	if err != nil {
		return err
	}
	old, err := c.find(ctx, k, id)
	if err != nil {
		return err
	}
	v := version{id: id, priority: e.GetPriority(), value: e.GetValue(), keepValue: true, added: true}
	if old == nil || !old.hasValue || v.beats(&old.version) {
		k.claim(v)
		c.setClaim(n, claimNow{by: by, put: true})
	}
	return nil
}

// claim puts a version that no block gives in its place, also of a lower one of the
// same name.
func (k *keyChange) claim(v version) {
	if k.winner == winnerUndecided || k.win != nil && !k.wonBy(v.id) && !v.beats(k.win) {
		k.setLoser(v.id, &loser{version: v, hasValue: true})
		return
	}
	k.removeLoser(v.id)
	k.crown(&v)
}

// find returns what is here of a version; nil: nothing.
func (c *setChange) find(ctx context.Context, k *keyChange, id blockID) (*loser, error) {
	if k.wonBy(id) {
		return &loser{version: *k.win, hasValue: true}, nil
	}
	if l, changed := k.losers[id]; changed || !k.mayHaveLosers {
		return l, nil
	}
	b, found, err := c.store.getRow(ctx, c.store.keys.loser(k.key, id))
	if err != nil || !found {
		return nil, err
	}
	return decodeLoser(id, b)
}

// What one commit removes of the claims about a block. No honest block has given many
// more values, but summaries can claim any number.
const (
	maxDropped     = 4096
	maxDroppedSize = 8 << 20 // bytes of values
)

// A manyClaims error names a block that more is claimed about than one commit may
// remove. See committer.once.
type manyClaims blockID

func (m manyClaims) Error() string {
	return fmt.Sprintf("crdt: more is claimed about block %s than one commit removes", blockID(m).Cid())
}

// removeClaims removes the claims about a block, which is merged now. If these are
// too many for one commit, it removes some and returns manyClaims.
func (c *setChange) removeClaims(ctx context.Context, id blockID) error {
	keys, err := c.claimedKeys(ctx, id)
	if err != nil {
		return err
	}
	size := 0
	for i, key := range keys {
		if i == maxDropped || size > maxDroppedSize {
			return manyClaims(id)
		}
		k, err := c.load(ctx, key)
		if err != nil {
			return err
		}
		if k.win != nil {
			size += len(k.win.value)
		}
		c.removeClaim(k, id)
	}
	return nil
}

func (c *setChange) removeClaim(k *keyChange, id blockID) {
	k.remove(id)
	c.setClaim(versionName{k.key, id}, claimNow{})
}

// forgetClaims removes the claims of a summary that is purged. Where another one
// claims the same, or less, that is gone as well.
func (c *setChange) forgetClaims(ctx context.Context, b *block) error {
	for _, e := range b.delta.claims {
		id, _ := parseDsKey(e.GetId())
		by, claimed, err := c.claimedBy(ctx, versionName{e.GetKey(), id})
		if err != nil {
			return err
		}
		if !claimed || by != b.id {
			continue
		}
		k, err := c.load(ctx, e.GetKey())
		if err != nil {
			return err
		}
		c.removeClaim(k, id)
	}
	return nil
}

// removeSome is a commit that removes claims about a block, as many as it may.
func removeSome(ctx context.Context, id blockID) func(*commit) error {
	return func(c *commit) error {
		err := c.set.removeClaims(ctx, id)
		if errors.As(err, new(manyClaims)) {
			return nil
		}
		return err
	}
}

// claimedKeys returns keys to which a block is claimed to have given values: all,
// or more than one commit may remove.
func (c *setChange) claimedKeys(ctx context.Context, id blockID) (keys []string, err error) {
	if c.mayHaveClaims {
		limit := maxDropped + 1 + len(c.claims[id])
		for e, err := range c.store.rowsUnder(ctx, c.store.keys.claimsOn(id), false, limit) {
			if err != nil {
				return nil, err
			}
			_, key, err := decodeClaim(e.Value)
			if err != nil {
				return nil, err
			}
			if _, changed := c.claims[id][key]; !changed {
				keys = append(keys, key)
			}
		}
	}
	for key, now := range c.claims[id] {
		if now.put {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// claimedBy returns the summary that a version is known from, if it is a claim.
func (c *setChange) claimedBy(ctx context.Context, n versionName) (by blockID, found bool, err error) {
	if now, changed := c.claims[n.id][n.key]; changed || !c.mayHaveClaims {
		return now.by, now.put, nil
	}
	b, found, err := c.store.getRow(ctx, c.store.keys.claim(n))
	if err != nil || !found {
		return by, false, err
	}
	by, _, err = decodeClaim(b)
	return by, err == nil, err
}

func (c *setChange) setClaim(n versionName, now claimNow) {
	of := c.claims[n.id]
	setIn(&of, n.key, now)
	setIn(&c.claims, n.id, of)
}

// appendClaimRows appends what the commit writes of claims.
func (c *setChange) appendClaimRows(rows []row) []row {
	for id, keys := range c.claims {
		for key, now := range keys {
			r := row{key: c.store.keys.claim(versionName{key, id}), remove: !now.put}
			if now.put {
				r.value = append(now.by[:], key...)
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// decodeClaim reads a claim row: the digest of the summary, then the key.
func decodeClaim(b []byte) (by blockID, key string, err error) {
	if len(b) <= len(by) {
		return by, "", errBadRecord
	}
	return blockID(b), string(b[len(by):]), nil
}

// claimsOn is the prefix of all claims about a block.
func (k *keyspace) claimsOn(id blockID) string { return id.under(k.claims) }

func (k *keyspace) claim(n versionName) ds.Key {
	return ds.RawKey(k.claimsOn(n.id) + "/" + escapeKey.Replace(n.key))
}

// summed is the row of a block that a summary sums up and that is not here.
func (k *keyspace) summed(id blockID) ds.Key { return ds.RawKey(k.claimsOn(id)) }

// sumUp takes what a summary sums up out of the frontier of its DAG, for good:
// also what is pending, and what is not here yet.
func (c *dagChange) sumUp(ctx context.Context, b *block) error {
	if b.delta.summary {
		c.begunAnew = append(c.begunAnew, b.delta.dagName)
	}
	for _, id := range b.summed {
		m, err := c.mark(ctx, id)
		switch {
		case err != nil:
			return err
		case m.state == unknown:
			c.setSummed(id, &b.delta.dagName)
		case m.state == pending && m.tip.DAGName == b.delta.dagName:
			c.pendingHeads.remove(id)
			c.keepFromHeads(id, m)
		case c.heads.now[id].DAGName == b.delta.dagName:
			c.heads.remove(id)
		}
	}
	return nil
}

// takeSummed keeps a block from becoming a head if a summary of its DAG, which was
// here before, sums it up.
func (c *dagChange) takeSummed(ctx context.Context, b *block) error {
	if dag, changed := c.summed[b.id]; changed || !c.mayHaveSummed {
		if dag != nil {
			b.neverHead = b.neverHead || *dag == b.delta.dagName
			c.setSummed(b.id, nil)
		}
		return nil
	}
	dag, found, err := c.store.getRow(ctx, c.store.keys.summed(b.id))
	if found {
		b.neverHead = b.neverHead || string(dag) == b.delta.dagName
		c.setSummed(b.id, nil)
	}
	return err
}

func (c *dagChange) setSummed(id blockID, dag *string) {
	setIn(&c.summed, id, dag)
}

// appendSummedRows appends what the commit writes of blocks that are summed up.
func (c *dagChange) appendSummedRows(rows []row) []row {
	for id, dag := range c.summed {
		r := presence(c.store.keys.summed(id), dag != nil)
		if dag != nil {
			r.value = []byte(*dag)
		}
		rows = append(rows, r)
	}
	return rows
}
