package crdt

import (
	"cmp"
	"container/heap"
	"iter"
)

// A source gives items in their order, one at a time. ok: there was one.
type source[T any] func() (item T, err error, ok bool)

// A sourced item has come from one of several sources.
type sourced[T any] struct {
	item   T
	source int
}

// mergeSorted yields the items of several sources in their order. One that several have
// comes once for each.
func mergeSorted[T any](compare func(a, b T) int, sources ...iter.Seq2[T, error]) iter.Seq2[sourced[T], error] {
	return func(yield func(sourced[T], error) bool) {
		pulled := make([]source[T], len(sources))
		for i, s := range sources {
			next, stop := iter.Pull2(s)
			defer stop()
			pulled[i] = next
		}
		mergeSources(compare, pulled)(yield)
	}
}

// mergeSources is mergeSorted for sources that are pulled. An item need not be valid any
// more once the next one of its source is asked for.
func mergeSources[T any](compare func(a, b T) int, sources []source[T]) iter.Seq2[sourced[T], error] {
	return func(yield func(sourced[T], error) bool) {
		first := sourceHeap[T]{compare: compare}
		for i, next := range sources {
			item, err, ok := next()
			if err != nil {
				yield(sourced[T]{}, err)
				return
			}
			if ok {
				heap.Push(&first, sourced[T]{item, i})
			}
		}
		for first.Len() > 0 && yield(first.items[0], nil) {
			item, err, ok := sources[first.items[0].source]()
			switch {
			case err != nil:
				yield(sourced[T]{}, err)
				return
			case ok:
				first.items[0].item = item
				heap.Fix(&first, 0)
			default:
				heap.Pop(&first)
			}
		}
	}
}

// A sourceHeap is the next item of each source, with that on top which comes first.
type sourceHeap[T any] struct {
	compare func(a, b T) int
	items   []sourced[T]
}

func (h *sourceHeap[T]) Len() int { return len(h.items) }
func (h *sourceHeap[T]) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	return cmp.Or(h.compare(a.item, b.item), cmp.Compare(a.source, b.source)) < 0
}
func (h *sourceHeap[T]) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }
func (h *sourceHeap[T]) Push(x any)    { h.items = append(h.items, x.(sourced[T])) }
func (h *sourceHeap[T]) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	h.items = h.items[:last]
	return item
}
