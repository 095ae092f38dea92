package crdt

import (
	"context"
)

// A dagFinder finds out to which DAG merged blocks belong: their marks do not say so. Where
// there is one DAG alone, and where a cover has the block, that is easy. Else it is read.
type dagFinder struct {
	committer *committer
	held      []*checkpoint      // when it began
	only      *string            // the only DAG; nil: there are others
	read      map[blockID]string // up to maxFoundDAGs
	reader    briefReader
}

const maxFoundDAGs = 64 << 10

// newDAGFinder makes one for those who are alone in it, for blocks of a DAG mostly.
func newDAGFinder(c *committer, dagName string) *dagFinder {
	f := &dagFinder{committer: c, only: &dagName, read: make(map[blockID]string), reader: briefReader{blocks: c.blocks}}
	heads, pendingHeads := c.frontier.tips()
	for _, tops := range []tips{heads, pendingHeads} {
		for _, v := range tops {
			f.thereIs(v.DAGName)
		}
	}
	for _, cp := range c.frontier.checkpoints().held() {
		f.held = append(f.held, cp)
		f.thereIs(cp.tip.DAGName)
	}
	return f
}

func (f *dagFinder) thereIs(dagName string) {
	if f.only != nil && *f.only != dagName {
		f.only = nil
	}
}

// dagOf returns the DAG of a block. It is not known if the block is neither covered nor here,
// or cannot be read soon.
func (f *dagFinder) dagOf(ctx context.Context, id blockID) (name string, known bool, err error) {
	if f.only != nil {
		return *f.only, true, nil
	}
	for _, cp := range f.held {
		covered, err := f.committer.store.inSegments(ctx, cp.segments, id)
		if covered || err != nil {
			return cp.tip.DAGName, covered, err
		}
	}
	if name, known = f.read[id]; known {
		return name, true, nil
	}
	here, err := f.committer.store.isHere(ctx, id)
	if err != nil || !here {
		return "", false, err
	}
	return f.readDAG(ctx, id)
}

func (f *dagFinder) readDAG(ctx context.Context, id blockID) (name string, known bool, err error) {
	b, err := f.reader.getMerged(ctx, id)
	if err != nil {
		return "", false, ctx.Err()
	}
	if len(f.read) == maxFoundDAGs {
		clear(f.read)
	}
	f.read[id] = b.delta.dagName
	return b.delta.dagName, true, nil
}
