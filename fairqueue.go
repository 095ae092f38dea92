package crdt

import (
	"container/heap"
	"container/list"
)

// A fairQueue holds items of several owners, who take turns. The items of one
// owner stand in a line, in the order of before and, where that is silent, as
// they came. So nobody waits longer because somebody else has more items.
//
// first is the next item if turns are taken. newest is that of the owner who came
// last, for those who would rather serve news; to let that starve nobody is up to
// them.
type fairQueue[O comparable, T any] struct {
	before func(a, b T) bool // nil: never
	lines  map[O]*line[O, T]
	turns  list.List // of *line: the one whose last turn is longest ago first
	news   list.List // of *line: promoted and not served since, the last one last
	added  uint64
}

// A line is the items of one owner: a heap. There are no empty lines in a queue.
type line[O comparable, T any] struct {
	queue  *fairQueue[O, T]
	owner  O
	places []*place[O, T]
	turn   *list.Element // in turns
	news   *list.Element // in news, or nil
}

// A place is an item in its line.
type place[O comparable, T any] struct {
	item T
	line *line[O, T]
	at   int // in line.places
	nr   uint64
}

// add puts an item in its owner's line. A new line has its turn after all others.
func (q *fairQueue[O, T]) add(owner O, item T) *place[O, T] {
	l := q.lines[owner]
	if l == nil {
		l = &line[O, T]{owner: owner}
		q.join(l)
	}
	q.added++
	p := &place[O, T]{item: item, line: l, nr: q.added}
	heap.Push(l, p)
	return p
}

func (q *fairQueue[O, T]) join(l *line[O, T]) {
	if q.lines == nil {
		q.lines = make(map[O]*line[O, T])
	}
	q.lines[l.owner], l.queue, l.turn = l, q, q.turns.PushBack(l)
}

func (l *line[O, T]) leave() {
	l.demote()
	l.queue.turns.Remove(l.turn)
	delete(l.queue.lines, l.owner)
}

// move takes an owner's line to another queue.
func (q *fairQueue[O, T]) move(owner O, to *fairQueue[O, T]) {
	if l := q.lines[owner]; l != nil {
		l.leave()
		to.join(l)
	}
}

// promote makes an owner the newest, until its next turn.
func (q *fairQueue[O, T]) promote(owner O) {
	if l := q.lines[owner]; l != nil {
		l.demote()
		l.news = q.news.PushBack(l)
	}
}

func (l *line[O, T]) demote() {
	if l.news != nil {
		l.queue.news.Remove(l.news)
		l.news = nil
	}
}

// first returns the item of the owner whose turn it is, of those who may have one,
// or nil. Without may, all may.
func (q *fairQueue[O, T]) first(may func(O) bool) *place[O, T] {
	for e := q.turns.Front(); e != nil; e = e.Next() {
		if l := e.Value.(*line[O, T]); may == nil || may(l.owner) {
			return l.places[0]
		}
	}
	return nil
}

// newest returns the item of the owner who was promoted last, likewise.
func (q *fairQueue[O, T]) newest(may func(O) bool) *place[O, T] {
	for e := q.news.Back(); e != nil; e = e.Prev() {
		if l := e.Value.(*line[O, T]); may(l.owner) {
			return l.places[0]
		}
	}
	return nil
}

// last returns an item of the owner whose turn is furthest, none of whose items
// come after it, or nil.
func (q *fairQueue[O, T]) last() *place[O, T] {
	e := q.turns.Back()
	if e == nil {
		return nil
	}
	places := e.Value.(*line[O, T]).places
	return places[len(places)-1]
}

// length returns how many items an owner has.
func (q *fairQueue[O, T]) length(owner O) int {
	if l := q.lines[owner]; l != nil {
		return len(l.places)
	}
	return 0
}

// take takes an item out. That was its owner's turn.
func (p *place[O, T]) take() {
	l := p.line
	heap.Remove(l, p.at)
	if len(l.places) == 0 {
		l.leave()
		return
	}
	l.demote()
	l.queue.turns.MoveToBack(l.turn)
}

func (l *line[O, T]) Len() int { return len(l.places) }

func (l *line[O, T]) Less(i, j int) bool {
	p, o := l.places[i], l.places[j]
	if before := l.queue.before; before != nil {
		switch {
		case before(p.item, o.item):
			return true
		case before(o.item, p.item):
			return false
		}
	}
	return p.nr < o.nr
}

func (l *line[O, T]) Swap(i, j int) {
	l.places[i], l.places[j] = l.places[j], l.places[i]
	l.places[i].at, l.places[j].at = i, j
}

func (l *line[O, T]) Push(x any) {
	p := x.(*place[O, T])
	p.at = len(l.places)
	l.places = append(l.places, p)
}

func (l *line[O, T]) Pop() any {
	end := len(l.places) - 1
	p := l.places[end]
	l.places[end] = nil
	l.places = l.places[:end]
	return p
}
