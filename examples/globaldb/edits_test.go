package main

import (
	"strings"
	"testing"
)

func TestCheckMergeAcceptsOnlyWhatTheRulesAllow(t *testing.T) {
	before := snapshot{"/k": "old", "/other": "same"}
	putA, putB, remove := change{put, "a"}, change{put, "b"}, change{kind: del}
	for name, test := range map[string]struct {
		left, right change
		after       snapshot
		complaint   string
	}{
		"two puts, left wins":      {putA, putB, snapshot{"/k": "a", "/other": "same"}, ""},
		"two puts, right wins":     {putA, putB, snapshot{"/k": "b", "/other": "same"}, ""},
		"two puts, none wins":      {putA, putB, snapshot{"/k": "old", "/other": "same"}, `holds "old"`},
		"two puts, key lost":       {putA, putB, snapshot{"/other": "same"}, "holds nothing"},
		"put survives delete":      {putA, remove, snapshot{"/k": "a", "/other": "same"}, ""},
		"put lost to delete":       {remove, putB, snapshot{"/other": "same"}, "holds nothing"},
		"delete alone":             {change{}, remove, snapshot{"/other": "same"}, ""},
		"deleted key is back":      {remove, remove, snapshot{"/k": "old", "/other": "same"}, `holds "old"`},
		"another key was changed":  {putA, change{}, snapshot{"/k": "a", "/other": "new"}, "/other"},
		"another key was lost":     {putA, change{}, snapshot{"/k": "a"}, "/other"},
		"a key came from nowhere":  {putA, change{}, snapshot{"/k": "a", "/other": "same", "/x": ""}, "/x"},
		"a put alone went missing": {putA, change{}, snapshot{"/k": "old", "/other": "same"}, `only ["a"]`},
	} {
		err := checkMerge(before, test.after, []edit{{key: "/k", left: test.left, right: test.right}})
		if accepted := err == nil; accepted != (test.complaint == "") {
			t.Errorf("%s: got %v", name, err)
		} else if err != nil && !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("%s: %q does not say %q", name, err, test.complaint)
		}
	}
}

func TestBulkEditsClash(t *testing.T) {
	shown := showcase()
	clashes := 0
	for _, e := range bulkEdits(wholeUnicode(), shown) {
		if e.left.kind == put && e.right.kind == del {
			clashes++
		}
		for _, s := range shown {
			if s.key == e.key {
				t.Errorf("%s is edited twice", e.key)
			}
		}
	}
	if clashes < 500 {
		t.Errorf("only %d keys are written on one side and deleted on the other", clashes)
	}
}
