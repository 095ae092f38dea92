package crdt

import (
	"context"
	"sync"
)

// A traversal reads the blocks below others, several at a time. Its fields
// belong to the goroutine that runs it.
type traversal struct {
	visited map[blockID]bool // also has what the caller knows, as not visited yet
	todo    []toRead
	running int
}

type toRead struct {
	id    blockID
	known bool // to the caller
}

// A traversed block is one that was read, or could not be.
type traversed struct {
	id  blockID
	b   *block
	err error
}

// traverse calls visit with each block in from and below, once, and with the
// error where one could not be read. Of blocks in known it reads the links
// alone. It ends at the first error that visit returns. visit is called with
// one block at a time. known is changed.
func (s *blockStore) traverse(ctx context.Context, from []blockID, known map[blockID]bool, visit func(blockID, *block, error) error) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	getter, end := s.session(ctx)
	defer end()

	blocks, results := make(chan toRead, fetchesPerWorker), make(chan traversed, fetchesPerWorker)
	defer close(blocks)
	for range fetchesPerWorker {
		workers.Go(func() {
			// A context of its own: those of requests come and go on it, and
			// all on one would wait for its lock.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			for r := range blocks {
				read := s.get
				if r.known {
					read = s.getLinks
				}
				b, err := read(ctx, getter, r.id)
				results <- traversed{r.id, b, err}
			}
		})
	}
	t := &traversal{visited: known}
	t.add(from)
	for t.running+len(t.todo) > 0 {
		for t.running < fetchesPerWorker && len(t.todo) > 0 {
			blocks <- t.next()
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
		if visited, known := t.visited[id]; !visited {
			t.visited[id] = true
			t.todo = append(t.todo, toRead{id, known})
		}
	}
}

func (t *traversal) next() toRead {
	r := t.todo[0]
	t.todo = t.todo[1:]
	t.running++
	return r
}
