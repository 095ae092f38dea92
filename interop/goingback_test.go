package interop

import (
	"strings"
	"testing"
)

// v0.6.8 would show a store of ours as empty, and take writes that we could only merge
// afterwards. It must fail before it has touched anything.
func TestReleasedRefusesAStoreOfOurs(t *testing.T) {
	p := start(t, ours)
	p.put("/k", "v")
	p.close()
	if says := refused(t, old, p.dir); !strings.Contains(says, "error decoding version") {
		t.Errorf("v0.6.8 says %q", says)
	}
	holds(t, pairs{"/k": "v"}, reopen(t, ours, p.dir))
}
