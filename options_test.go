package crdt

import (
	"fmt"
	"strings"
	"testing"
)

func TestOptionsAreCheckedAllAtOnce(t *testing.T) {
	opts := &Options{DAGSyncerTimeout: -1, CheckpointEvery: -1, KeepHistory: -1}
	before := *opts
	_, err := New(newAtomicStore(), testNamespace, newTestNet().node(), nil, opts)
	for _, name := range []string{"RebroadcastInterval", "NumWorkers", "DAGSyncerTimeout", "MaxBatchDeltaSize", "CheckpointEvery", "KeepHistory"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	if fmt.Sprint(*opts) != fmt.Sprint(before) {
		t.Error("the caller's options were changed")
	}
	if _, err := New(nil, testNamespace, newTestNet().node(), nil, nil); err == nil {
		t.Error("a nil store was accepted")
	}
}
