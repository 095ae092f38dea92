package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	ds "github.com/ipfs/go-datastore"
)

// What is loaded. All of it follows from the seed, so that runs can be
// compared.
const (
	seed      = 20170517
	batchSize = 1000
	valueSize = 100
)

// key returns the i-th key. Keys ascend, as those with a time or a counter do,
// so that the store never has to merge old tables with new ones. Shuffled ones
// come in no order, as hashes and UUIDs do.
func (c *config) key(i int) ds.Key {
	n := uint64(i)
	if c.shuffled {
		n = scatter(n ^ seed)
	}
	return ds.RawKey(fmt.Sprintf("/scale/%016x", n))
}

// scatter is the finisher of SplitMix64. It maps no two numbers to the same
// one, so that no key comes twice.
func scatter(n uint64) uint64 {
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// value returns the value of the i-th key: random bytes, so that compression
// does not flatter the store.
func value(i int) []byte {
	v := make([]byte, 0, valueSize+8)
	for r := rand.NewPCG(seed, uint64(i)); len(v) < valueSize; {
		v = binary.LittleEndian.AppendUint64(v, r.Uint64())
	}
	return v[:valueSize]
}

// batches calls f with each range of keys that makes a batch.
func (c *config) batches(f func(from, to int) error) error {
	for from := 0; from < c.keys; from += batchSize {
		if err := f(from, min(from+batchSize, c.keys)); err != nil {
			return err
		}
	}
	return nil
}
