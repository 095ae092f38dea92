package crdt

import (
	"fmt"

	"github.com/anishathalye/porcupine"
	ds "github.com/ipfs/go-datastore"
)

// The model: the values of a few keys, "" for none. Writes put no empty values.
const (
	linearKeys      = 4
	linearBatchSize = 320 // a delta that holds any batch, but not all that may wait
)

type linearState [linearKeys]string

func linearKey(key int) ds.Key { return ds.NewKey(fmt.Sprint("/mine/", key)) }

// linearWrites happen in one step; an empty value is a Delete.
type linearWrites []linearWrite

type linearWrite struct {
	key   int
	value string
}

// linearRead is a kind of read; those beyond are queries, too.
type linearRead int

const (
	readGet linearRead = iota
	readHas
	readSize
	readAll
)

func (k linearRead) String() string {
	return []string{"Get", "Has", "GetSize", "Query"}[min(k, readAll)]
}

// A linearLook reads one key, or all of them.
type linearLook struct {
	key  int
	kind linearRead
}

// sees is what a read gives.
func (l linearLook) sees(s linearState) any {
	switch value := s[l.key]; {
	case l.kind == readGet:
		return value
	case l.kind == readHas:
		return value != ""
	case l.kind == readSize && value == "":
		return -1
	case l.kind == readSize:
		return len(value)
	}
	return s
}

var linearModel = porcupine.Model{
	Init: func() any { return linearState{} },
	Step: func(state, input, output any) (bool, any) {
		s := state.(linearState)
		if look, ok := input.(linearLook); ok {
			return look.sees(s) == output, s
		}
		for _, w := range input.(linearWrites) {
			s[w.key] = w.value
		}
		return true, s
	},
}

func describeLinear(input, output any) string {
	if look, ok := input.(linearLook); ok {
		return fmt.Sprintf("%s of %d gives %q", look.kind, look.key, output)
	}
	return fmt.Sprintf("write %v", input)
}
