package interop

import (
	"fmt"
	"maps"
	"path"
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// Checkpoints are blocks with links and without pairs to the released module, which stays
// as good a peer as it was as long as nobody drops what they cover.
func TestCheckpointsBesideTheReleasedModule(t *testing.T) {
	t.Parallel()
	peers := []*peer{
		start(t, ours, "-checkpoint-every=20"),
		start(t, ours, "-checkpoint-every=20", "-superseding"),
		start(t, old),
	}
	connectAll(peers)
	want := pairs{}
	for round := range 3 {
		for _, p := range peers {
			p.isolate()
		}
		writeAll(t, round, peers, want)
		peers[round%2].ask(wire.Request{Op: wire.Checkpoint})
		for _, p := range peers {
			p.rejoin()
		}
		connectAll(peers)
		writeAll(t, round, peers, want)
		agreeOnAll(t, want, peers)
	}
	for _, p := range peers[:2] {
		eventually(t, func() string {
			if s := p.stats(); s.LastCheckpoint < s.MaxHeight/2 {
				return fmt.Sprintf("the last checkpoint is at height %d of %d", s.LastCheckpoint, s.MaxHeight)
			}
			return ""
		})
	}
}

func connectAll(peers []*peer) {
	for i, p := range peers {
		for _, q := range peers[:i] {
			p.connect(q)
		}
	}
}

// writeAll has all peers write at a time, each to keys of its own, which it removes in part,
// and to one that they share. It notes the former in want.
func writeAll(t *testing.T, round int, peers []*peer, want pairs) {
	t.Helper()
	var all []<-chan error
	for i, p := range peers {
		own := numbered(fmt.Sprintf("/own/%d", i), 20)
		for key, value := range own {
			own[key] = fmt.Sprint(value, " of round ", round)
		}
		maps.Copy(want, own)
		all = append(all, putAll(p, own.and(pairs{"/shared": fmt.Sprint(i, round)})))
	}
	for i, p := range peers {
		if err := <-all[i]; err != nil {
			t.Fatal(err)
		}
		for _, gone := range []string{fmt.Sprintf("/own/%d/%03d", i, round), fmt.Sprintf("/own/%d/%03d", i, 10+round)} {
			p.delete(gone)
			delete(want, gone)
		}
	}
}

// agreeOnAll waits until our peers show the same, which is what is wanted but for what all
// share, and the released one, the last, has live versions of the same keys.
func agreeOnAll(t *testing.T, want pairs, peers []*peer) {
	t.Helper()
	eventually(t, func() string {
		first, second, released := peers[0].pairs(), peers[1].pairs(), peers[2].liveKeys()
		if diff := differences(second, first); diff != "" {
			return "ours differ: " + diff
		}
		for key := range first {
			if !released[key] {
				return "the released peer has no version of " + key
			}
		}
		if len(released) > len(first) {
			return fmt.Sprintf("the released peer has versions of %d keys, and not of %d", len(released), len(first))
		}
		maps.DeleteFunc(first, func(key, _ string) bool { return !strings.HasPrefix(key, "/own") })
		return differences(first, want)
	})
}

// liveKeys returns the keys of which a peer of the released module has a version without a
// tombstone. What it shows of them may be wrong for good: it merges versions and tombstones
// of a key side by side, of which superseding Puts and tidying make many. See README.md.
func (p *peer) liveKeys() map[string]bool {
	p.t.Helper()
	rows, live := p.rows(), make(map[string]bool)
	for row := range rows {
		version, ok := strings.CutPrefix(row, "/crdt/s/s")
		if _, dead := rows["/crdt/s/t"+version]; ok && !dead {
			live[path.Dir(version)] = true
		}
	}
	return live
}

func TestAReleasedNewcomerGetsAHistoryWithCheckpoints(t *testing.T) {
	t.Parallel()
	host, guest := start(t, ours, "-checkpoint-every=20"), start(t, ours, "-checkpoint-every=20")
	host.connect(guest)
	want := longHistory(t, host, guest)
	host.ask(wire.Request{Op: wire.Checkpoint})
	guest.close()
	late := start(t, old)
	late.connect(host)
	agree(t, want, late)
	late.delete("/host/003")
	late.put("/late", "1")
	delete(want, "/host/003")
	agree(t, want.and(pairs{"/late": "1"}), late, host)
}

// Who was away meets checkpoints that cover checkpoints, and finds nothing of what they
// cover. What was deleted meanwhile must not come back with what it writes.
func TestALaggardOfTwoCheckpointsBringsNothingBack(t *testing.T) {
	t.Parallel()
	host, laggard := start(t, ours), start(t, ours)
	host.connect(laggard)
	want := longHistory(t, host, laggard)
	apart(host, laggard, func() {
		for generation := range 2 {
			deleteHalf(host, want, generation)
			host.put("/host/generation", fmt.Sprint(generation))
			want["/host/generation"] = fmt.Sprint(generation)
			if host.compact() == 0 {
				t.Fatal("nothing has been dropped")
			}
		}
		laggard.put("/laggard", "1")
		laggard.put("/guest/005", "of the laggard")
	})
	want["/laggard"], want["/guest/005"] = "1", "of the laggard"
	agree(t, want, host, laggard)
	if laggard.stats().InVain == 0 {
		t.Error("the laggard never asked for what is gone: it was not behind")
	}
	laggard.delete("/guest/007")
	delete(want, "/guest/007")
	laggard.compact()
	laggard.close()
	laggard = reopen(t, ours, laggard.dir)
	laggard.connect(host)
	agree(t, want, host, laggard)
}

// deleteHalf deletes every other key of the host's, and then those that are left.
func deleteHalf(host *peer, all pairs, generation int) {
	host.t.Helper()
	var gone []string
	for i := generation; i < 100; i += 2 {
		gone = append(gone, fmt.Sprintf("/host/%03d", i))
	}
	host.ask(wire.Request{Op: wire.Batch, Keys: gone})
	for _, key := range gone {
		delete(all, key)
	}
}

// A newcomer joins peers that have dropped all that a checkpoint covers, and asks for
// none of it.
func TestANewcomerAsksForNothingThatWasDropped(t *testing.T) {
	t.Parallel()
	host, guest := start(t, ours), start(t, ours)
	host.connect(guest)
	want := longHistory(t, host, guest)
	host.compact()
	host.put("/since", "1")
	want["/since"] = "1"
	agree(t, want, guest)
	eventually(t, func() string {
		if guest.stats().LastCheckpoint != host.stats().LastCheckpoint {
			return "the guest does not hold the checkpoint"
		}
		return ""
	})
	if guest.ask(wire.Request{Op: wire.Compact}).Dropped == 0 {
		t.Fatal("the guest has dropped nothing")
	}
	late := start(t, ours)
	late.connect(host)
	late.connect(guest)
	agree(t, want, late)
	late.put("/late", "1")
	late.delete("/guest/003")
	delete(want, "/guest/003")
	agree(t, want.and(pairs{"/late": "1"}), host, guest, late)
	if s := late.stats(); s.InVain > 0 || s.Dirty {
		t.Fatalf("the newcomer asked for blocks that are gone: %+v", s)
	}
}
