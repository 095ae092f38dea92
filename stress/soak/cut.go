package main

import (
	"math/rand/v2"
	"time"
)

// noCut has no replica out of another's reach.
func noCut(replicas int) [][]bool {
	cut := make([][]bool, replicas)
	for i := range cut {
		cut[i] = make([]bool, replicas)
	}
	return cut
}

// randomCut cuts off one replica, splits them all in up to three groups, or cuts some of
// the links between them, so that some replicas hear of each other only through others.
func randomCut(replicas int, random *rand.Rand) [][]bool {
	switch random.IntN(3) {
	case 0:
		alone := random.IntN(replicas)
		return cutWhere(replicas, func(i, j int) bool { return i == alone || j == alone })
	case 1:
		group := make([]int, replicas)
		for i := range group {
			group[i] = random.IntN(3)
		}
		return cutWhere(replicas, func(i, j int) bool { return group[i] != group[j] })
	default:
		return cutWhere(replicas, func(int, int) bool { return random.IntN(2) == 0 })
	}
}

// cutWhere asks once for each two replicas: a link is cut on both sides.
func cutWhere(replicas int, out func(i, j int) bool) [][]bool {
	cut := noCut(replicas)
	for i := range replicas {
		for j := range i {
			cut[i][j] = out(i, j)
			cut[j][i] = cut[i][j]
		}
	}
	return cut
}

// cutOff replaces the cut there is by another one, which heals later.
func (c *controller) cutOff() error {
	c.counts.add(cuts)
	cut := randomCut(c.cfg.replicas, c.random)
	c.cut = cut
	if c.cfg.verbose {
		c.tell("%s: %v", cuts, links(cut))
	}
	c.agenda.add(c.between(time.Second, c.cfg.away), func() error {
		if &c.cut[0] != &cut[0] {
			return nil // there is a newer one
		}
		c.cut = noCut(c.cfg.replicas)
		return c.tellLinks()
	})
	return c.tellLinks()
}

// links lists the links that are cut.
func links(cut [][]bool) (pairs [][2]int) {
	for i := range cut {
		for j := range i {
			if cut[i][j] {
				pairs = append(pairs, [2]int{j, i})
			}
		}
	}
	return pairs
}
