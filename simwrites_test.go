package crdt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
)

// writes are what a step does to a replica that runs.
var writes = []weighted[func(*simulation, *simReplica)]{
	{10, (*simulation).put},
	{6, (*simulation).delete},
	{6, (*simulation).batch},
	{1, (*simulation).abandonBatch},
	{3, (*simulation).putAtOnce},
	{3, (*simulation).publish},
	{5, (*simulation).uncover},
	{1, (*simulation).tooLarge},
	{1, (*simulation).cancelled},
	{2, (*simulation).queryMeanwhile},
}

// A simWrite is one call of a replica, and what it means.
type simWrite struct {
	call func(context.Context) error
	// changes is what the pairs must be changed by; nil: that depends on what
	// is known of the key, and only the model can tell.
	changes *changes
	// oneBlock is set if all goes into one delta, which must then hold just the
	// changes.
	oneBlock bool
	// parts is set if some of it may be done when the call fails.
	parts bool
	// fails is the error that must come; nil: any may come when something
	// fails.
	fails error
}

// do makes a call and compares what it did with what it means. That can be told
// while no time passes: then no other replica's blocks have come.
func (s *simulation) do(r *simReplica, w simWrite) {
	synctest.Wait() // nothing that another step began is still going on
	if r.reap(); r.down {
		return
	}
	r.checkPairs()
	c := &checkedWrite{simWrite: w, r: r, torn: r.torn(), began: time.Now(), before: r.pairs(), blocks: r.node.made(), known: r.frontier.checkpoints()}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c.err = w.call(ctx)
	c.check()
}

type checkedWrite struct {
	simWrite
	r      *simReplica
	torn   bool // half of an older commit may have been seen before
	began  time.Time
	before map[string]string
	blocks int         // made before
	known  checkpoints // before
	err    error
}

func (c *checkedWrite) check() {
	r := c.r
	r.t.Helper()
	if c.fails != nil && !errors.Is(c.err, c.fails) && !errors.Is(c.err, context.DeadlineExceeded) && !r.faults.failing() {
		r.t.Errorf("replica %d: %v came, and should be: %v", r.number, c.err, c.fails)
	}
	if r.s.well && c.fails == nil && c.err != nil {
		r.t.Errorf("replica %d: a write failed though all was well: %s", r.number, c.err)
	}
	alone := !c.torn && time.Now().Equal(c.began)
	if c.err == nil {
		c.acknowledge(alone)
	}
	if !alone || r.torn() {
		return
	}
	after := r.pairs()
	want := maps.Clone(c.before)
	if c.err == nil && c.changes != nil {
		c.changes.applyTo(want)
	}
	switch storeFailed := r.faults.failing(); {
	case c.err == nil && c.changes == nil:
		synctest.Wait()
		r.checkPairs()
	case c.err != nil && (storeFailed || c.parts): // the model will tell
	case !maps.Equal(after, want):
		r.t.Errorf("replica %d, after a write that returned %v\n%s", r.number, c.err, diff(after, want))
	}
}

// acknowledge notes the blocks that a write has made: they must never be lost.
func (c *checkedWrite) acknowledge(alone bool) {
	made := c.made()
	for _, b := range made {
		c.r.s.acked[b.id] = true
	}
	c.checkHeights(made)
	if alone && c.oneBlock && !c.r.early(c.r.states()) {
		c.checkDelta(made)
	}
}

// checkHeights checks that what was written during a take wins over all that this brings.
func (c *checkedWrite) checkHeights(made []*block) {
	now := c.r.frontier.checkpoints()
	for id, cp := range c.known {
		if cp.state != checkpointTaking || now[id] == nil || now[id].state != checkpointTaking || cp.tip.Height >= maxPriority {
			continue
		}
		for _, b := range made {
			if b.delta.priority <= cp.tip.Height {
				c.r.t.Errorf("replica %d has written at height %d while it took a checkpoint of height %d", c.r.number, b.delta.priority, cp.tip.Height)
			}
		}
	}
}

func (c *checkedWrite) made() (made []*block) {
	for _, cid := range c.r.node.madeSince(c.blocks) {
		id, err := blockIDOf(cid)
		c.r.must(err)
		if b := c.r.s.block(id); !c.isOfCheckpoint(b) {
			made = append(made, b)
		}
	}
	return made
}

// isOfCheckpoint reports whether a block was made for a checkpoint beside the write: it is
// one, or removes losers. These are of other keys as well, or the store failed then.
func (c *checkedWrite) isOfCheckpoint(b *block) bool {
	switch {
	case b.delta.snapshot != nil:
		return true
	case len(b.delta.elements) > 0:
		return false
	}
	return !c.r.states()[b.id].merged() || slices.ContainsFunc(b.delta.tombstones, func(t *pb.Element) bool { return !c.changesKey(t.GetKey()) })
}

// changesKey reports whether a write changes a key: of some it is not known.
func (c *checkedWrite) changesKey(key string) bool {
	return c.changes == nil || slices.ContainsFunc(c.changes.list, func(ch *change) bool { return ch.key == key })
}

// checkDelta compares the blocks of a write with what it means: its last values,
// and tombstones of the versions that were live before, and of no others.
func (c *checkedWrite) checkDelta(made []*block) {
	got, want := make(map[string]int), make(map[string]int)
	for _, b := range made {
		for _, e := range b.delta.elements {
			got[fmt.Sprintf("put %q=%q", e.GetKey(), e.GetValue())]++
		}
		for _, e := range b.delta.tombstones {
			got[fmt.Sprintf("remove %q of %s", e.GetKey(), e.GetId())]++
		}
	}
	for _, ch := range c.changes.list {
		if ch.put {
			want[fmt.Sprintf("put %q=%q", ch.key, ch.value)]++
		}
		for _, v := range c.r.model.live(ch.key) {
			if ch.remove || ch.put && (c.r.opts.SupersedingPuts || v.priority >= maxPriority) {
				want[fmt.Sprintf("remove %q of %s", ch.key, v.id.dsKey())]++
			}
		}
	}
	if !maps.Equal(got, want) {
		c.r.t.Errorf("replica %d: the blocks of a write %v\nshould %v", c.r.number, got, want)
	}
}

// applyTo applies changes to plain pairs.
func (c *changes) applyTo(pairs map[string]string) {
	for _, ch := range c.list {
		if ch.put {
			pairs[ch.key] = string(ch.value)
		} else {
			delete(pairs, ch.key)
		}
	}
}

func (s *simulation) put(r *simReplica) {
	key, value, c := s.key(), s.value(), &changes{}
	c.put(key, []byte(value))
	s.do(r, simWrite{
		call:     func(ctx context.Context) error { return r.Put(ctx, ds.NewKey(key), []byte(value)) },
		changes:  c,
		oneBlock: true,
	})
}

func (s *simulation) delete(r *simReplica) {
	key, c := s.key(), &changes{}
	c.delete(key)
	s.do(r, simWrite{
		call:     func(ctx context.Context) error { return r.Delete(ctx, ds.NewKey(key)) },
		changes:  c,
		oneBlock: true,
	})
}

// batch writes several keys, some of them more than once.
func (s *simulation) batch(r *simReplica) {
	c := &changes{}
	list := s.someChanges(c)
	s.do(r, simWrite{
		call:     func(ctx context.Context) error { return r.commitAll(ctx, list) },
		changes:  c,
		oneBlock: r.opts.MaxBatchDeltaSize == 1<<20,
		parts:    r.opts.MaxBatchDeltaSize < 1<<20,
	})
}

// someChanges makes changes one after the other, and adds them to c.
func (s *simulation) someChanges(c *changes) (list []change) {
	for range 1 + s.rng.IntN(8) {
		ch := change{key: s.key(), remove: true}
		if s.rng.IntN(3) > 0 {
			ch = change{key: s.key(), put: true, value: []byte(s.value())}
			c.put(ch.key, ch.value)
		} else {
			c.delete(ch.key)
		}
		list = append(list, ch)
	}
	return list
}

func (r *simReplica) commitAll(ctx context.Context, list []change) error {
	b, err := r.fill(ctx, list)
	if err != nil {
		return err
	}
	return b.Commit(ctx)
}

func (r *simReplica) fill(ctx context.Context, list []change) (ds.Batch, error) {
	b, err := r.Batch(ctx)
	for _, ch := range list {
		switch {
		case err != nil:
			return nil, err
		case ch.put:
			err = b.Put(ctx, ds.NewKey(ch.key), ch.value)
		default:
			err = b.Delete(ctx, ds.NewKey(ch.key))
		}
	}
	return b, err
}

// abandonBatch fills a batch, and nothing comes of it unless it was committed
// early.
func (s *simulation) abandonBatch(r *simReplica) {
	list := s.someChanges(&changes{})
	w := simWrite{parts: true, call: func(ctx context.Context) error { _, err := r.fill(ctx, list); return err }}
	if r.opts.MaxBatchDeltaSize == 1<<20 {
		w.changes, w.oneBlock = &changes{}, true
	}
	s.do(r, w)
}

// putAtOnce puts the same keys from several goroutines. Some order must explain
// what is there then.
func (s *simulation) putAtOnce(r *simReplica) {
	keys := []string{s.key(), s.key()}
	put := make(map[string]bool)
	s.do(r, simWrite{parts: true, call: func(ctx context.Context) error {
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			key, value := keys[i%2], fmt.Sprint("g", i, time.Now().UnixNano())
			put[key+value] = true
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, time.Duration(i+1)*s.unit)
				defer cancel()
				errs[i] = r.Put(ctx, ds.NewKey(key), []byte(value))
			})
		}
		began := time.Now()
		wg.Wait()
		err := errors.Join(errs...)
		if err == nil && time.Now().Equal(began) && !r.faults.failing() {
			for _, k := range keys {
				if v := r.get(k); !put[k+v] {
					s.t.Errorf("replica %d: %q is %q, which none of several writers put", r.number, k, v)
				}
			}
		}
		return err
	}})
}

// publish publishes pairs in a named DAG, or nothing but a block that joins its
// heads.
func (s *simulation) publish(r *simReplica) {
	d := newPBDelta()
	if s.rng.IntN(4) > 0 {
		added, err := r.Set().Add(ctx, s.key(), []byte(s.value()))
		r.must(err)
		d = added
	}
	d.SetDagName(pick(s.rng, s.dags...))
	s.do(r, simWrite{call: func(ctx context.Context) error { _, err := r.Publish(ctx, d); return err }})
}

// uncover removes some of the versions of a key.
func (s *simulation) uncover(r *simReplica) {
	key, name, seed := s.key(), pick(s.rng, s.dags...), s.rng.Uint64()
	s.do(r, simWrite{call: func(ctx context.Context) error {
		d, err := r.Set().Rmv(ctx, key)
		r.must(err)
		versions, err := d.GetTombstones()
		r.must(err)
		rng := rand.New(rand.NewPCG(seed, 0))
		for len(versions) > 1 && rng.IntN(2) == 0 {
			i := rng.IntN(len(versions))
			versions = slices.Delete(versions, i, i+1)
		}
		d.SetTombstones(versions)
		d.SetDagName(name)
		_, err = r.Publish(ctx, d)
		return err
	}})
}

func (s *simulation) tooLarge(r *simReplica) {
	if s.blockSize == 0 {
		return // it would take too long
	}
	key, value := s.key(), []byte(strings.Repeat("x", s.blockSize))
	s.do(r, simWrite{
		call:     func(ctx context.Context) error { return r.Put(ctx, ds.NewKey(key), value) },
		changes:  &changes{},
		oneBlock: true,
		fails:    ErrTooLarge,
	})
}

func (s *simulation) cancelled(r *simReplica) {
	list := s.someChanges(&changes{})
	s.do(r, simWrite{
		call: func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return r.commitAll(ctx, list)
		},
		changes: &changes{},
		fails:   context.Canceled,
	})
}

// queryMeanwhile writes while results are being read: what is not written is
// among them once.
func (s *simulation) queryMeanwhile(r *simReplica) {
	key, value, c := s.key(), s.value(), &changes{}
	c.put(key, []byte(value))
	s.do(r, simWrite{
		call: func(ctx context.Context) error {
			want := r.pairs()
			res, err := r.Query(ctx, query.Query{})
			r.must(err)
			defer res.Close()
			began := time.Now()
			if err := r.Put(ctx, ds.NewKey(key), []byte(value)); err != nil {
				return err
			}
			all, err := res.Rest()
			r.must(err)
			got := make(map[string]string)
			for _, e := range all {
				got[e.Key] = string(e.Value)
			}
			delete(want, key)
			delete(got, key)
			if time.Now().Equal(began) && len(all) <= len(got)+1 && !maps.Equal(got, want) {
				s.t.Errorf("replica %d: a query beside a write returned other pairs\n%s", r.number, diff(got, want))
			}
			return nil
		},
		changes:  c,
		oneBlock: true,
	})
}
