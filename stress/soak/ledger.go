package main

import (
	"fmt"
	"maps"
	"strings"
	"sync"
)

// ledger is what a writer's own keys should be: nobody else writes them, so they are as
// its last acknowledged change left them, or as the one that was under way when its
// replica was killed would have.
type ledger struct {
	prefix string

	mu    sync.Mutex
	pairs map[string]string
	open  *Change // begun, not acknowledged
}

func newLedger(prefix string) *ledger { return &ledger{prefix: prefix, pairs: make(map[string]string)} }

// begin notes the part of a change that is about own keys.
func (l *ledger) begin(c Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = new(Change)
	for _, p := range c.Puts {
		if strings.HasPrefix(p.Key, l.prefix) {
			l.open.Puts = append(l.open.Puts, p)
		}
	}
	for _, key := range c.Deletes {
		if strings.HasPrefix(key, l.prefix) {
			l.open.Deletes = append(l.open.Deletes, key)
		}
	}
}

// acknowledge notes that the change that was begun is done.
func (l *ledger) acknowledge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pairs, l.open = l.after(), nil
}

// after returns the pairs as the open change leaves them.
func (l *ledger) after() map[string]string {
	if l.open == nil {
		return l.pairs
	}
	pairs := maps.Clone(l.pairs)
	for _, p := range l.open.Puts {
		pairs[p.Key] = p.Value
	}
	for _, key := range l.open.Deletes {
		delete(pairs, key)
	}
	return pairs
}

// settle compares what a replica holds, and takes it as the outcome of the open change:
// all of it, or nothing.
func (l *ledger) settle(held map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != nil && maps.Equal(held, l.after()) {
		l.pairs = l.after()
	} else if !maps.Equal(held, l.pairs) {
		return fmt.Errorf("the keys below %s are not as they were acknowledged: %s", l.prefix, difference(held, l.pairs))
	}
	l.open = nil
	return nil
}

// below picks the pairs below a prefix.
func below(prefix string, pairs map[string]string) map[string]string {
	found := make(map[string]string)
	for key, value := range pairs {
		if strings.HasPrefix(key, prefix) {
			found[key] = value
		}
	}
	return found
}

// difference names a few keys in which two sets of pairs differ.
func difference(got, want map[string]string) string {
	var all []string
	for key, value := range want {
		if held, ok := got[key]; !ok {
			all = append(all, fmt.Sprintf("%s is missing, should be %s", key, brief(value)))
		} else if held != value {
			all = append(all, fmt.Sprintf("%s is %s, should be %s", key, brief(held), brief(value)))
		}
	}
	for key, value := range got {
		if _, ok := want[key]; !ok {
			all = append(all, fmt.Sprintf("%s is %s, should not be there", key, brief(value)))
		}
	}
	return fmt.Sprintf("%d differ: %s", len(all), strings.Join(all[:min(len(all), 5)], "; "))
}

func brief(value string) string { return fmt.Sprintf("%.40q", value) }
