package crdt

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	cid "github.com/ipfs/go-cid"
)

// A Head is a block that no merged block of its DAG links to, and whose whole
// history is here. New blocks are built on the heads.
type Head struct {
	HeadValue
	Cid cid.Cid
}

// A HeadValue is what is known about a head beside its CID.
type HeadValue struct {
	Height  uint64 // the priority of its delta: 1 for the first block of a DAG
	DAGName string // "" for the unnamed DAG
}

func (h Head) String() string {
	if h.DAGName == "" {
		return fmt.Sprintf("%s (height %d)", h.Cid, h.Height)
	}
	return fmt.Sprintf("%s (height %d in %s)", h.Cid, h.Height, h.DAGName)
}

// tips are blocks at the top of something: heads or pending heads.
type tips map[blockID]HeadValue

func (t tips) has(id blockID) bool { _, ok := t[id]; return ok }

// maxHeight returns the greatest height among the tips of a DAG.
func (t tips) maxHeight(dagName string) (height uint64) {
	for _, v := range t {
		if v.DAGName == dagName {
			height = max(height, v.Height)
		}
	}
	return height
}

// width returns how many tips a DAG has.
func (t tips) width(dagName string) (n int) {
	for _, v := range t {
		if v.DAGName == dagName {
			n++
		}
	}
	return n
}

// of returns the tips of a DAG, in the order of their ids.
func (t tips) of(dagName string) []blockID {
	var ids []blockID
	for id, v := range t {
		if v.DAGName == dagName {
			ids = append(ids, id)
		}
	}
	return sortIDs(ids)
}

// ids returns the tips of all DAGs, in the order of their ids.
func (t tips) ids() []blockID { return sortIDs(slices.Collect(maps.Keys(t))) }

func sortIDs(ids []blockID) []blockID {
	slices.SortFunc(ids, blockID.compare)
	return ids
}

// list returns the tips as heads, in the order of their DAGs and ids.
func (t tips) list() []Head {
	heads := make([]Head, 0, len(t))
	for id, v := range t {
		heads = append(heads, Head{HeadValue: v, Cid: id.Cid()})
	}
	slices.SortFunc(heads, func(a, b Head) int {
		if c := strings.Compare(a.DAGName, b.DAGName); c != 0 {
			return c
		}
		return strings.Compare(a.Cid.KeyString(), b.Cid.KeyString())
	})
	return heads
}

// A frontier is the top of the DAGs as of the last commit: the heads, and the pending
// heads, which are merged blocks that no merged block of their DAG links to, with
// history that is still missing. It also has what is known of checkpoints.
type frontier struct {
	mu           sync.RWMutex // held to replace heads, not to commit
	heads        tips         // never changed in place
	pendingHeads tips         // likewise
	known        checkpoints  // likewise

	// How many heads each DAG has, or nil until somebody asks: most commits of
	// many heads are followed by no batch.
	widths map[string]int
}

func (f *frontier) tips() (heads, pendingHeads tips) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.heads, f.pendingHeads
}

// announced returns what is announced: the heads, and the newest checkpoint of each DAG.
func (f *frontier) announced() (heads, checkpoints tips) {
	f.mu.RLock()
	heads, known := f.heads, f.known
	f.mu.RUnlock()
	return heads, known.newest()
}

// checkpoints returns what is known of checkpoints.
func (f *frontier) checkpoints() checkpoints {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.known
}

func (f *frontier) set(heads, pendingHeads tips, known checkpoints) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads, f.pendingHeads, f.known, f.widths = heads, pendingHeads, known, nil
}

// width returns how many heads a DAG has. It looks through all heads once after
// each commit at most, as the commit did.
func (f *frontier) width(dagName string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.widths == nil {
		f.widths = make(map[string]int)
		for _, v := range f.heads {
			f.widths[v.DAGName]++
		}
	}
	return f.widths[dagName]
}

// loadTips reads the frontier from the store.
func (s *rowStore) loadTips(ctx context.Context) (heads, pendingHeads tips, err error) {
	heads, pendingHeads = make(tips), make(tips)
	for e, err := range s.rowsOf(ctx, s.keys.heads, 1, false) {
		if err := heads.read("", e.Key, e.Value, err); err != nil {
			return nil, nil, err
		}
	}
	for e, err := range s.rowsOf(ctx, s.keys.dagHeads, 2, false) {
		name, id, _ := splitID(e.Key)
		if checkBytes(id, e.Value) == nil {
			continue // not a head of a DAG named "blocks", but a block kept there
		}
		if err := heads.read(strings.Trim(name, "/"), e.Key, e.Value, err); err != nil {
			return nil, nil, err
		}
	}
	for e, err := range s.rowsOf(ctx, s.keys.pendingHeads, 1, false) {
		_, n := binary.Uvarint(e.Value)
		if err := pendingHeads.read(string(e.Value[max(n, 0):]), e.Key, e.Value, err); err != nil {
			return nil, nil, err
		}
	}
	return heads, pendingHeads, nil
}

// read adds the tip that a row describes: its value starts with the height.
func (t tips) read(dagName, key string, value []byte, err error) error {
	if err != nil {
		return fmt.Errorf("crdt: loading heads: %w", err)
	}
	_, id, ok := splitID(key)
	height, n := binary.Uvarint(value)
	if !ok || n <= 0 {
		return fmt.Errorf("crdt: malformed head row %q", key)
	}
	t[id] = HeadValue{Height: height, DAGName: dagName}
	return nil
}

// headRow is the value of a head's row; the name of the DAG is in the key.
func headRow(v HeadValue) []byte { return binary.AppendUvarint(nil, v.Height) }

// pendingHeadRow is that of a pending head's.
func pendingHeadRow(v HeadValue) []byte { return append(headRow(v), v.DAGName...) }
