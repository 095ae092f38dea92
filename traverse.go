package crdt

import (
	"context"
	"sync"
)

// A traversal reads the blocks below others, several at a time. Its fields
// belong to the goroutine that runs it.
type traversal struct {
	seen    map[blockID]bool
	todo    []blockID
	running int
}

// A traversed block is one that was read, or could not be.
type traversed struct {
	id  blockID
	b   *block
	err error
}

// traverse calls visit with each block in from and below, once, and with the
// error where one could not be read. It ends at the first error that visit
// returns. visit is called with one block at a time.
func (s *blockStore) traverse(ctx context.Context, from []blockID, visit func(blockID, *block, error) error) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	getter, end := s.session(ctx)
	defer end()

	results := make(chan traversed, fetchesPerWorker)
	t := &traversal{seen: make(map[blockID]bool)}
	t.add(from)
	for t.running+len(t.todo) > 0 {
		for t.running < fetchesPerWorker && len(t.todo) > 0 {
			id := t.next()
			workers.Go(func() {
				b, err := s.get(ctx, getter, id)
				results <- traversed{id, b, err}
			})
		}
		r := <-results
		t.running--
		if err := visit(r.id, r.b, r.err); err != nil {
			return err
		}
		if r.err == nil {
			t.add(r.b.links)
		}
	}
	return ctx.Err()
}

func (t *traversal) add(ids []blockID) {
	for _, id := range ids {
		if !t.seen[id] {
			t.seen[id] = true
			t.todo = append(t.todo, id)
		}
	}
}

func (t *traversal) next() blockID {
	id := t.todo[0]
	t.todo = t.todo[1:]
	t.running++
	return id
}
