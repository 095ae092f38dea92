package interop

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

var (
	seeds = flag.Int("seeds", 60, "how many seeds TestDifferential runs")
	first = flag.Int("first", 0, "the first seed that TestDifferential runs")
	races = flag.Bool("races", false, "let the released module, too, merge blocks side by side")
)

// The same blocks, in whatever order, make the same pairs with both modules, and those of
// the plain model. What the released module gets wrong is left out: blocks of which some
// are merged at the same time, and wild histories. Ours gets these alone.
func TestDifferential(t *testing.T) {
	replayers := startBoth(t)
	for s := uint64(*first); s < uint64(*first+*seeds); s++ {
		tame, wild := randomBlocks(s, false), randomBlocks(s, true)
		complaints := replayers.each(func(r *replayer) string {
			all := r.check(tame, oneByOne(tame, s))
			if r.kind == ours || *races {
				all += r.check(tame, sideBySide(tame, s))
			}
			if r.kind == ours {
				all += r.check(wild, append(oneByOne(wild, s), sideBySide(wild, s)...))
			}
			return all
		})
		if complaints != "" {
			t.Errorf("seed %d:\n%sreplay: go -C interop test -run 'TestDifferential$' -first=%d -seeds=1 .", s, complaints, s)
		}
	}
}

// check plays shuffles of the blocks, and says where the pairs that come of them are not
// those of the plain model.
func (r *replayer) check(blocks []*dagBlock, shuffles []shuffle) string {
	var complaints strings.Builder
	want := outcome(blocks)
	for _, s := range shuffles {
		out, err := r.play(r.kind.replayOf(blocks, s))
		diff := differences(toPairs(out.Pairs), want)
		if err != nil {
			diff = err.Error()
		}
		if diff != "" {
			fmt.Fprintf(&complaints, "%s, %s: %s\n%s", r.kind.name, s.name, diff, describe(blocks))
		}
	}
	return complaints.String()
}

// describe lists the blocks, for whoever looks into a failure.
func describe(blocks []*dagBlock) string {
	names := make(map[string]string)
	var lines strings.Builder
	for i, b := range blocks {
		names[b.id()] = fmt.Sprint("#", i)
		fmt.Fprintf(&lines, "#%d priority %d dag %q on %v:", i, b.delta.priority, b.delta.dag, places(blocks, b.links()))
		for _, e := range b.delta.elements {
			fmt.Fprintf(&lines, " %s=%q", e.key, e.value)
		}
		for _, t := range b.delta.tombstones {
			fmt.Fprintf(&lines, " -%s of %s", t.key, names[t.id])
		}
		lines.WriteString("\n")
	}
	return lines.String()
}
