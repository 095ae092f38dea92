package crash

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	ds "github.com/ipfs/go-datastore"
)

// An operation is a Put, a Delete, or a Batch: what it makes of which keys.
type operation struct {
	Batch  bool
	Writes map[string]string // "": removed
}

// A load tells how to write.
type load struct {
	Name    string // of the keys that nobody else writes to
	Seed    uint64
	FirstID uint64 // of the operations
	Writers int
	Huge    bool          // one of them writes batches that need a redo row
	Pause   time.Duration // of each writer between two operations

	Checkpoints bool // are made, and what they cover is dropped, all the time
}

// A journal is told of operations.
type journal interface {
	begin(id uint64, op operation)
	end(id uint64)
}

const (
	ownKeys    = 8
	sharedKeys = 4
	groups     = 3 // of keys that are always written together, in a batch
	groupKeys  = 20
	hugeKeys   = 90
	hugeValue  = 100 << 10 // with hugeKeys more than 8 MiB, which needs a redo row
)

// A writer writes one operation after the other. Its keys are its own, but for
// those below /shared, which everybody puts and nobody deletes.
type writer struct {
	store   ds.Batching
	journal journal
	name    string
	rand    *rand.Rand
	nextID  func() uint64
	huge    bool
	pause   time.Duration
}

// writers returns those of a load.
func (l load) writers(store ds.Batching, j journal, nextID func() uint64) []*writer {
	list := make([]*writer, l.Writers)
	for i := range list {
		list[i] = &writer{
			store:   store,
			journal: j,
			name:    fmt.Sprintf("%s%d", l.Name, i),
			rand:    rand.New(rand.NewPCG(l.Seed, uint64(i))),
			nextID:  nextID,
			huge:    l.Huge,
			pause:   l.Pause,
		}
	}
	return list
}

// run writes until it is told to stop.
func (w *writer) run(ctx context.Context, stopped func() bool) error {
	for !stopped() {
		if err := w.writeOne(ctx); err != nil {
			return err
		}
		time.Sleep(w.pause)
	}
	return nil
}

func (w *writer) writeOne(ctx context.Context) error {
	id := w.nextID()
	op := w.choose(id)
	w.journal.begin(id, op.brief())
	if err := op.apply(ctx, w.store); err != nil {
		return err
	}
	w.journal.end(id)
	return nil
}

func (w *writer) choose(id uint64) operation {
	own := fmt.Sprintf("/own/%s/%d", w.name, w.rand.IntN(ownKeys))
	switch n := w.rand.IntN(20); {
	case w.huge:
		return group(fmt.Sprintf("/group/%s/huge", w.name), hugeKeys, value(id, hugeValue))
	case n < 11:
		return operation{Writes: map[string]string{own: value(id, w.rand.IntN(2000))}}
	case n < 14:
		return operation{Writes: map[string]string{own: ""}}
	case n < 16:
		shared := fmt.Sprintf("/shared/%d", w.rand.IntN(sharedKeys))
		return operation{Writes: map[string]string{shared: value(id, 0)}}
	}
	v := value(id, w.rand.IntN(2000))
	if w.rand.IntN(5) == 0 {
		v = ""
	}
	return group(fmt.Sprintf("/group/%s/%d", w.name, w.rand.IntN(groups)), groupKeys, v)
}

// value is one that no other operation writes.
func value(id uint64, padding int) string {
	return fmt.Sprintf("%x ", id) + strings.Repeat(string(rune('a'+id%26)), padding)
}

// group is a batch that gives all keys below a parent the same value.
func group(parent string, size int, v string) operation {
	op := operation{Batch: true, Writes: make(map[string]string)}
	for i := range size {
		op.Writes[fmt.Sprintf("%s/%d", parent, i)] = v
	}
	return op
}

func (op operation) apply(ctx context.Context, store ds.Batching) error {
	if !op.Batch {
		return op.write(ctx, store)
	}
	b, err := store.Batch(ctx)
	if err != nil {
		return err
	}
	if err := op.write(ctx, b); err != nil {
		return err
	}
	return b.Commit(ctx)
}

func (op operation) write(ctx context.Context, to ds.Write) error {
	for k, v := range op.Writes {
		var err error
		if v == "" {
			err = to.Delete(ctx, ds.NewKey(k))
		} else {
			err = to.Put(ctx, ds.NewKey(k), []byte(v))
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", k, err)
		}
	}
	return nil
}

func (op operation) brief() operation {
	short := make(map[string]string, len(op.Writes))
	for k, v := range op.Writes {
		short[k] = brief(v)
	}
	return operation{Batch: op.Batch, Writes: short}
}

// brief stands for a value, to keep messages small.
func brief(v string) string {
	if len(v) <= 40 {
		return v
	}
	sum := sha256.Sum256([]byte(v))
	return fmt.Sprintf("%s..%d bytes, %x", v[:20], len(v), sum[:8])
}
