package interop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func TestPutReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.put("/a/b", "value")
		agree(t, pairs{"/a/b": "value"}, from, to)
		if value, found := to.get("/a/b"); !found || value != "value" {
			t.Fatalf("Get gives %q, found: %v", value, found)
		}
	})
}

func TestOverwriteReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.put("/k", "z, greater than what follows")
		agree(t, pairs{"/k": "z, greater than what follows"}, to)
		from.put("/k", "second")
		from.put("/k", "first")
		agree(t, pairs{"/k": "first"}, from, to)
	})
}

func TestOverwriteByTheOtherSideReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, first, second *peer) {
		first.put("/k", "z")
		agree(t, pairs{"/k": "z"}, second)
		second.put("/k", "a")
		agree(t, pairs{"/k": "a"}, first, second)
		first.put("/k", "0")
		agree(t, pairs{"/k": "0"}, first, second)
	})
}

func TestDeleteReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.put("/stays", "1")
		from.put("/goes", "1")
		from.put("/goes", "2")
		agree(t, pairs{"/stays": "1", "/goes": "2"}, to)
		from.delete("/goes")
		agree(t, pairs{"/stays": "1"}, from, to)
		from.put("/goes", "back")
		agree(t, pairs{"/stays": "1", "/goes": "back"}, from, to)
	})
}

func TestDeleteByTheOtherSideReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, writer, deleter *peer) {
		writer.put("/k", "1")
		writer.put("/k", "2")
		agree(t, pairs{"/k": "2"}, deleter)
		settled(t, writer, deleter)
		deleter.delete("/k")
		agree(t, pairs{}, writer, deleter)
	})
}

func TestDeleteOfAParentKeyLeavesItsChildren(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.ask(wire.Request{Op: wire.Batch, Pairs: nested.list()})
		agree(t, nested, from, to)
		from.delete("/a")
		from.delete("/s/k")
		agree(t, pairs{"/a/v": "3", "/a/p": "4", "/s/k/v": "6"}, from, to)
	})
}

// nested are keys whose rows look alike in the old store format.
var nested = pairs{"/a": "1", "/a/v": "3", "/a/p": "4", "/s/k": "5", "/s/k/v": "6"}

func TestEmptyValueReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.put("/empty", "")
		agree(t, pairs{"/empty": ""}, from, to)
		if value, found := to.get("/empty"); !found || value != "" {
			t.Fatalf("Get gives %q, found: %v", value, found)
		}
		from.put("/empty", "no more")
		agree(t, pairs{"/empty": "no more"}, from, to)
		from.put("/empty", "")
		agree(t, pairs{"/empty": ""}, from, to)
	})
}

func TestBatchReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		from.put("/old", "1")
		agree(t, pairs{"/old": "1"}, to)
		batch := pairs{"/x": "1", "/y": "2", "/z/z": "3"}
		from.ask(wire.Request{Op: wire.Batch, Pairs: batch.list(), Keys: []string{"/old", "/never there"}})
		agree(t, batch, from, to)
	})
}

func TestBatchThatOutgrowsABlockReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *peer) {
		batch := pairs{}
		for key := range numbered("/big", 20) {
			batch[key] = strings.Repeat(key, 100_000/len(key))
		}
		from.ask(wire.Request{Op: wire.Batch, Pairs: batch.list()})
		agree(t, batch, from, to)
	})
}

func TestDeleteOfAKeyWithManyVersionsReplicates(t *testing.T) {
	bothWays(t, func(t *testing.T, writer, deleter *peer) {
		for i := range 100 {
			writer.put("/k", fmt.Sprint(i))
			deleter.put("/other", fmt.Sprint(i))
		}
		agree(t, pairs{"/k": "99", "/other": "99"}, writer, deleter)
		settled(t, writer, deleter)
		deleter.delete("/k")
		writer.delete("/other")
		agree(t, pairs{}, writer, deleter)
	})
}
