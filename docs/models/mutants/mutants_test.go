package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mutants that don't match the code any more test nothing. Whether one is caught takes too
// long to be a test.
func TestListMatchesTheCode(t *testing.T) {
	mutants, err := parse(list)
	if err != nil || len(mutants) < 40 {
		t.Fatalf("%d mutants, %v", len(mutants), err)
	}
	names, tests := make(map[string]bool), readTests(t)
	for _, m := range mutants {
		if _, err := m.apply("../../.."); err != nil {
			t.Error(err)
		}
		if names[m.name] || len(m.edits) == 0 {
			t.Errorf("%s is there twice, or has no edits", m.name)
		}
		names[m.name] = true
		if m.by != "nothing" && !strings.Contains(tests, "\nfunc "+m.by+"(t *testing.T) {") {
			t.Errorf("there is no %s, which is to catch %s", m.by, m.name)
		}
	}
}

func readTests(t *testing.T) string {
	files, err := filepath.Glob("../../../*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
