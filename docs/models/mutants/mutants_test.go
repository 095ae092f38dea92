package main

import "testing"

// Mutants that don't match the code any more test nothing. Whether one is caught takes too
// long to be a test.
func TestListMatchesTheCode(t *testing.T) {
	mutants, err := parse(list)
	if err != nil || len(mutants) < 40 {
		t.Fatalf("%d mutants, %v", len(mutants), err)
	}
	names := make(map[string]bool)
	for _, m := range mutants {
		if _, err := m.apply("../../.."); err != nil {
			t.Error(err)
		}
		if names[m.name] || len(m.edits) == 0 {
			t.Errorf("%s is there twice, or has no edits", m.name)
		}
		names[m.name] = true
	}
}
