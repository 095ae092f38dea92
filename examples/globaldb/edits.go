package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ds "github.com/ipfs/go-datastore"
)

// change is what one side of a split network does to a key.
type change struct {
	kind  changeKind
	value string // of a put
}

type changeKind int

const (
	keep changeKind = iota
	put
	del
)

// edit is a key with what happened to it on either side while the network
// was split. Edits with a title are shown to the reader one by one.
type edit struct {
	title       string
	key         string
	left, right change
}

// merged are the values that may stand for the key once the network is whole
// again, none meaning that it is gone. A delete removes only what it saw, so
// it loses against a concurrent put; of two concurrent puts either may win.
func (e edit) merged() []string {
	var values []string
	for _, side := range []change{e.left, e.right} {
		if side.kind == put {
			values = append(values, side.value)
		}
	}
	return values
}

// showcase meets every way in which two sides can agree or clash.
func showcase() []edit {
	key := unicodeKey
	return []edit{
		{"both rewrite it", key('☃'), change{put, "snowman of alice"}, change{put, "snowman of carol"}},
		{"deleted | rewritten", key('☕'), change{kind: del}, change{put, "tea of carol"}},
		{"rewritten | deleted", key('♫'), change{put, "song of alice"}, change{kind: del}},
		{"both delete it", key('☠'), change{kind: del}, change{kind: del}},
		{"deleted | untouched", key('☀'), change{kind: del}, change{}},
		{"untouched | rewritten", key('☂'), change{}, change{put, "umbrella of carol"}},
		{"new | -", "/notes/alice", change{put, "hello from alice"}, change{}},
		{"- | new", "/notes/carol", change{}, change{put, "hello from carol"}},
		{"new | new", "/notes/both", change{put, "alice was first"}, change{put, "no, carol was"}},
	}
}

// bulkEdits adds quantity: the left side rewrites every 20th pair of the table
// and the right side deletes every 30th, so that they clash at every 60th.
func bulkEdits(table []pair, except []edit) []edit {
	taken := map[string]bool{}
	for _, e := range except {
		taken[e.key] = true
	}
	var edits []edit
	for i, p := range table {
		e := edit{key: p.key}
		if i%20 == 0 {
			e.left = change{put, strings.ToLower(p.value)}
		}
		if i%30 == 0 {
			e.right = change{kind: del}
		}
		if e != (edit{key: p.key}) && !taken[p.key] {
			edits = append(edits, e)
		}
	}
	return edits
}

// apply makes the changes that pick selects from the edits, in one batch.
func apply(ctx context.Context, store ds.Batching, edits []edit, pick func(edit) change) error {
	batch, err := store.Batch(ctx)
	if err != nil {
		return err
	}
	for _, e := range edits {
		switch c := pick(e); c.kind {
		case put:
			err = batch.Put(ctx, ds.NewKey(e.key), []byte(c.value))
		case del:
			err = batch.Delete(ctx, ds.NewKey(e.key))
		}
		if err != nil {
			return err
		}
	}
	return batch.Commit(ctx)
}

// only picks one side's changes of one kind.
func only(kind changeKind, side func(edit) change) func(edit) change {
	return func(e edit) change {
		if c := side(e); c.kind == kind {
			return c
		}
		return change{}
	}
}

func leftSide(e edit) change  { return e.left }
func rightSide(e edit) change { return e.right }

// checkMerge is an error unless after is what the edits must make of before.
func checkMerge(before, after snapshot, edits []edit) error {
	edited := map[string]bool{}
	for _, e := range edits {
		edited[e.key] = true
		value, present := after[e.key]
		allowed := e.merged()
		if present != (len(allowed) > 0) || present && !slices.Contains(allowed, value) {
			return fmt.Errorf("after healing %s holds %s, but only %q would be right", e.key, after.show(e.key), allowed)
		}
	}
	for _, key := range before.differences(after) {
		if !edited[key] {
			return fmt.Errorf("healing made %s of %s at %s, which nobody had written",
				after.show(key), before.show(key), key)
		}
	}
	return nil
}
