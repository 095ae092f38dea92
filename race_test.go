//go:build race

package crdt

// slowdown is how much longer things may take under the race detector.
const slowdown = 20
