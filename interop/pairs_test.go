package interop

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// pairs is the content of a replica: values by key.
type pairs map[string]string

func toPairs(list []wire.Pair) pairs {
	all := make(pairs, len(list))
	for _, p := range list {
		all[p.Key] = string(p.Value)
	}
	return all
}

// and gives p with more pairs added.
func (p pairs) and(more pairs) pairs {
	all := maps.Clone(p)
	maps.Copy(all, more)
	return all
}

func (p pairs) list() []wire.Pair {
	var list []wire.Pair
	for _, key := range slices.Sorted(maps.Keys(p)) {
		list = append(list, wire.Pair{Key: key, Value: []byte(p[key])})
	}
	return list
}

// differences says what got has too much, too little or wrong. It is empty when they
// are the same.
func differences(got, want pairs) string {
	var lines []string
	for key, value := range want {
		if has, ok := got[key]; !ok {
			lines = append(lines, fmt.Sprintf("%s is missing", key))
		} else if has != value {
			lines = append(lines, fmt.Sprintf("%s is %q, not %q", key, has, value))
		}
	}
	for key, value := range got {
		if _, ok := want[key]; !ok {
			lines = append(lines, fmt.Sprintf("%s = %q should not be there", key, value))
		}
	}
	return shortened(lines)
}

func shortened(lines []string) string {
	slices.Sort(lines)
	if len(lines) > 10 {
		lines = append(lines[:10], fmt.Sprintf("... %d in all", len(lines)))
	}
	return strings.Join(lines, "\n")
}
