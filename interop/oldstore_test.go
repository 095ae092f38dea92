package interop

import (
	"strings"
	"testing"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

const versionRow = "/crdt/crdt_version" // uvarint(format version + 1), which ours leaves without an end

func TestAnOldStoreOpensWithTheSamePairs(t *testing.T) {
	store, _, want := oldPeers(t)
	checkOldFormat(t, store)
	store.close()
	opened := reopen(t, ours, store.dir)
	holds(t, want, opened)
	if version := opened.rows()[versionRow]; version != "\x83" {
		t.Fatalf("the version row is now %x, not 83", version)
	}
}

// checkOldFormat makes sure that the tests start from what they think they do.
func checkOldFormat(t *testing.T, p *peer) {
	t.Helper()
	rows := p.rows()
	if rows[versionRow] != "\x02" {
		t.Fatalf("the version row of the old store is %x, not 02", rows[versionRow])
	}
	for _, space := range []string{"/crdt/s/s/", "/crdt/s/t/", "/crdt/s/k/", "/crdt/h/", "/crdt/b/"} {
		if !hasBelow(rows, space) {
			t.Fatalf("the old store has no row below %s", space)
		}
	}
}

func hasBelow(rows pairs, space string) bool {
	for key := range rows {
		if strings.HasPrefix(key, space) {
			return true
		}
	}
	return false
}

func TestAnOldStoreGoesOn(t *testing.T) {
	store, partner, want := oldPeers(t)
	store.close()
	opened := reopen(t, ours, store.dir)
	goesOn(t, opened, partner, want)
}

func TestAnOldStoreGoesOnAgainstAStoreThatChangedMeanwhile(t *testing.T) {
	store, partner, want := oldPeers(t)
	store.close()
	partner.put("/meanwhile", "1")
	partner.delete("/over")
	opened := reopen(t, ours, store.dir)
	opened.put("/over", "concurrent to the delete")
	opened.connect(partner)
	agree(t, want.and(pairs{"/meanwhile": "1", "/over": "concurrent to the delete"}), opened, partner)
}

func TestAnOldStoreThatWasKilledOpensAndGoesOn(t *testing.T) {
	store, partner, want := oldPeers(t)
	store.kill()
	opened := reopen(t, ours, store.dir)
	holds(t, want, opened)
	goesOn(t, opened, partner, want)
}

// goesOn writes on both sides of a migrated store and an old peer, and reopens the
// migrated store.
func goesOn(t *testing.T, opened, partner *peer, want pairs) {
	t.Helper()
	opened.connect(partner)
	want = changedBy(opened, want, "ours")
	agree(t, want, opened, partner)
	settled(t, opened, partner)
	want = changedBy(partner, want, "old")
	agree(t, want, opened, partner)
	opened.close()
	again := reopen(t, ours, opened.dir)
	holds(t, want, again)
	again.connect(partner)
	again.put("/again", "1")
	agree(t, want.and(pairs{"/again": "1"}), again, partner)
}

// changedBy has p overwrite, delete, delete and rewrite, and add a key; it gives the
// pairs that result.
func changedBy(p *peer, before pairs, by string) pairs {
	p.t.Helper()
	after := before.and(pairs{"/over": by, "/both": by, "/a": by, "/new/" + by: by})
	deleted := map[string]string{"ours": "/a/v", "old": "/s/k"}[by]
	delete(after, deleted)
	p.delete(deleted)
	p.delete("/a")
	for _, pair := range after.list() {
		if before[pair.Key] != string(pair.Value) {
			p.ask(wire.Request{Op: wire.Put, Key: pair.Key, Value: pair.Value})
		}
	}
	return after
}
