package crdt

import (
	"context"
	"slices"
	"strings"

	"github.com/ipfs/go-ds-crdt/pb"
)

// A tidier removes losers. A Put leaves the version that it replaces, as the old module's
// does, and so an overwritten key has ever more versions, all of which are in every
// checkpoint. Before one is made, those that have lost are removed by ordinary deltas,
// which every peer understands.
//
// Only versions of the checkpoint's own DAG go so: a tombstone of another's would stay
// among the open ones for ever.
type tidier struct {
	committer *committer
	dagName   string
	limit     int // of one delta, in bytes

	dags *dagFinder

	found []versionName // for the next delta
	size  int           // of their tombstones
}

const maxTidySize = 32 << 10 // in one delta: the turn must not be held for long

// tidy removes the losers of a DAG, in commits of bounded size. While it reads rows,
// others may write. What is a loser no more by then is left alone.
func (m *maker) tidy(ctx context.Context, dagName string) error {
	t := newTidier(m.committer, dagName, min(m.opts.MaxBatchDeltaSize, maxTidySize, m.blocks.maxSize/4))
	for e, err := range m.store.rowsOf(ctx, m.store.keys.losers, 2, true) {
		if err != nil {
			return err
		}
		n, ok := parseLoser(e.Key)
		if !ok {
			continue
		}
		if err := t.consider(ctx, n); err != nil {
			return err
		}
	}
	return t.flush(ctx)
}

func newTidier(c *committer, dagName string, limit int) *tidier {
	return &tidier{committer: c, dagName: dagName, limit: limit, dags: newDAGFinder(c, dagName)}
}

// unescapeKey undoes escapeKey.
var unescapeKey = strings.NewReplacer("%25", "%", "%2F", "/")

// parseLoser reads what a loser's row says by its name.
func parseLoser(name string) (versionName, bool) {
	key, id, ok := splitID(name)
	key = unescapeKey.Replace(strings.TrimPrefix(key, "/"))
	return versionName{key, id}, ok && isKey(key)
}

func (t *tidier) consider(ctx context.Context, n versionName) error {
	size := tombstoneSize(n.key)
	if size > t.limit {
		return nil
	}
	if name, known, err := t.dags.dagOf(ctx, n.id); !known || name != t.dagName || err != nil {
		return err
	}
	if lost, err := t.committer.store.hasLost(ctx, n); !lost || err != nil {
		return err
	}
	if t.size+size > t.limit {
		if err := t.flush(ctx); err != nil {
			return err
		}
	}
	t.found, t.size = append(t.found, n), t.size+size
	return nil
}

// flush removes what has been found.
func (t *tidier) flush(ctx context.Context) error {
	if len(t.found) == 0 {
		return nil
	}
	err := t.committer.do(ctx, func(c *commit) error { return t.remove(context.WithoutCancel(ctx), c) })
	t.found, t.size = t.found[:0], 0
	return err
}

// remove removes those that are still losers. Nothing else is looked up while others wait:
// a version that has gone meanwhile may go again, and a block that was complete still is, as
// no DAG is purged meanwhile.
func (t *tidier) remove(ctx context.Context, c *commit) error {
	if err := c.set.loadAhead(ctx, keysBy(t.found, func(n versionName) string { return n.key })); err != nil {
		return err
	}
	var lost []*pb.Element
	for _, n := range t.found {
		k, err := c.set.load(ctx, n.key)
		if err != nil {
			return err
		}
		if k.winner == winnerKnown && !k.wonBy(n.id) {
			lost = append(lost, &pb.Element{Key: n.key, Id: n.id.dsKey()})
			c.dag.assume(complete, n.id)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.SortFunc(lost, byKeyAndID)
	d := c.committer.blocks.newDelta()
	d.SetDagName(t.dagName)
	d.SetTombstones(lost)
	d.SetPriority(c.dag.height(t.dagName))
	return c.publish(ctx, []Delta{d})
}

// hasLost reports whether a version is live and not the winner. Its block is to be complete:
// a tombstone for any other may stay an open one.
func (s *rowStore) hasLost(ctx context.Context, n versionName) (bool, error) {
	if live, err := s.Has(ctx, s.keys.loser(n.key, n.id)); !live || err != nil {
		return false, err
	}
	m, err := s.mark(ctx, n.id)
	return err == nil && m.state == complete, err
}
