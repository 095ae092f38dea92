package main

import (
	"path/filepath"
	"strings"
	"testing"

	ds "github.com/ipfs/go-datastore"
)

func TestDowngradedStoreOpensAgain(t *testing.T) {
	dir := t.TempDir()
	runOK(t, local(dir, "put", "/k", "v")...)
	for range 2 { // the second time there is nothing to do
		runOK(t, "-data", dir, "downgrade")
	}
	store, err := openBadger(dir)
	must(t, err)
	version, err := store.Get(t.Context(), ds.NewKey("/globaldb/crdt_version"))
	must(t, err)
	must(t, store.Close())
	if string(version) != "\x02" {
		t.Errorf("the version row is %x, want 02", version)
	}
	if got := runOK(t, local(dir, "get", "/k")...); got != "v\n" {
		t.Errorf("opened again, /k is %q", got)
	}
}

func TestDowngradeMakesNoStore(t *testing.T) {
	err := run(t.Context(), []string{"-data", filepath.Join(t.TempDir(), "none"), "downgrade"}, stdio{})
	if err == nil || !strings.Contains(err.Error(), "there is no store") {
		t.Errorf("it says %v", err)
	}
}
