package main

import (
	"slices"
	"time"
)

// agenda is what is to be done later: the other half of a fault.
type agenda []appointment

type appointment struct {
	at time.Time
	do func() error
}

func (a *agenda) add(in time.Duration, do func() error) {
	*a = append(*a, appointment{time.Now().Add(in), do})
	slices.SortStableFunc(*a, func(x, y appointment) int { return x.at.Compare(y.at) })
}

// next takes the first appointment that is due.
func (a *agenda) next(now time.Time) (do func() error, due bool) {
	if len(*a) == 0 || (*a)[0].at.After(now) {
		return nil, false
	}
	do = (*a)[0].do
	*a = (*a)[1:]
	return do, true
}

// clear does all that is left.
func (a *agenda) clear() error {
	for len(*a) > 0 {
		do, _ := a.next((*a)[0].at)
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
