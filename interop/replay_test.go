package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// replayer is a running replay process. It takes one Replay at a time.
type replayer struct {
	kind   kind
	in     *json.Encoder
	out    *json.Decoder
	stderr bytes.Buffer // to be read once the process has ended
}

// startReplayer runs a replayer, which ends with the test.
func startReplayer(t *testing.T, k kind) *replayer {
	t.Helper()
	r := &replayer{kind: k}
	cmd := exec.Command(k.program("replay"))
	cmd.Stderr = &r.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.in, r.out = json.NewEncoder(stdin), json.NewDecoder(stdout)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the %s replayer ended: %v\n%s", k.name, err, &r.stderr)
		}
	})
	return r
}

// play shows a new replica the blocks.
func (r *replayer) play(req wire.Replay) (out wire.Outcome, err error) {
	if err := r.in.Encode(req); err != nil {
		return out, err
	}
	if err := r.out.Decode(&out); err != nil {
		return out, fmt.Errorf("no answer: %w", err)
	}
	if out.Error != "" {
		return out, fmt.Errorf("answered: %s", out.Error)
	}
	return out, nil
}

// both are a replayer of each kind.
type both []*replayer

func startBoth(t *testing.T) both {
	t.Helper()
	return both{startReplayer(t, ours), startReplayer(t, old)}
}

// each does something with both at once, and joins what they complain of.
func (b both) each(do func(*replayer) string) string {
	complaints := make(chan string)
	for _, r := range b {
		go func() { complaints <- do(r) }()
	}
	var all string
	for range b {
		all += <-complaints
	}
	return all
}

// A shuffle is a way to show blocks to a replica.
type shuffle struct {
	name  string
	steps []wire.Step
}

// replayOf asks for a shuffle of blocks. Heads are known from the blocks: those that none
// of their DAG links to.
func (k kind) replayOf(blocks []*dagBlock, s shuffle) wire.Replay {
	req := wire.Replay{Steps: s.steps, Heads: []string{}}
	for _, b := range blocks {
		req.Blocks = append(req.Blocks, wire.Block{Cid: b.cid.String(), Data: b.raw})
	}
	for _, h := range headsOf(blocks) {
		req.Heads = append(req.Heads, k.headRow(h))
	}
	slices.Sort(req.Heads)
	return req
}

// headRow is the row of a head. The released module knows no named DAGs.
func (k kind) headRow(b *dagBlock) string {
	if k == old || b.delta.dag == "" {
		return "/h" + b.id()
	}
	return "/a/" + b.delta.dag + b.id()
}

func headsOf(blocks []*dagBlock) []*dagBlock {
	linked := make(map[*dagBlock]bool)
	for _, b := range blocks {
		for _, l := range b.links() {
			linked[l] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(blocks), func(b *dagBlock) bool { return linked[b] })
}
