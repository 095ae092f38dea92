//go:build !race

package crdt

const slowdown = 1
