package crdt

import "time"

// A pace adapts how much of a long job one commit does to how long it holds the turn:
// others that write wait for it, and stores differ in speed by a factor of a hundred. With
// small commits alone a newcomer on a fast one takes a sixth longer for a million entries.
type pace struct {
	now         int // things of some kind that the next commit does
	least, most int
}

// paceGoal is how long a commit of a long job is to hold the turn.
const paceGoal = 5 * time.Millisecond

func (p *pace) adapt(held time.Duration) {
	switch {
	case held > 2*paceGoal:
		p.now = max(p.now/2, p.least)
	case held < paceGoal/2:
		p.now = min(2*p.now, p.most)
	}
}
