package crdt

import (
	"context"
	"sync"

	ipld "github.com/ipfs/go-ipld-format"
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

// A blockReader reads a block, or as much of it as is wanted.
type blockReader func(context.Context, ipld.NodeGetter, blockID) (*block, error)

// traverse calls visit with each block in from and below, once, and with the
// error where one could not be read. It ends at the first error that visit
// returns. visit is called with one block at a time, read with several.
func (s *blockStore) traverse(ctx context.Context, from []blockID, read blockReader, visit func(blockID, *block, error) error) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	getter, end := s.session(ctx)
	defer end()

	ids, results := make(chan blockID, fetchesPerWorker), make(chan traversed, fetchesPerWorker)
	defer close(ids)
	for range fetchesPerWorker {
		workers.Go(func() {
			for id := range ids {
				b, err := read(ctx, getter, id)
				results <- traversed{id, b, err}
			}
		})
	}
	t := &traversal{seen: make(map[blockID]bool)}
	t.add(from)
	for t.running+len(t.todo) > 0 {
		for t.running < fetchesPerWorker && len(t.todo) > 0 {
			ids <- t.next()
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
