package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// seed makes every run write the same.
const seed = 1

type pair struct {
	key   ds.Key
	value []byte
}

// makePairs makes n pairs below a key, in the order of their keys.
func makePairs(parent string, n int) []pair {
	random := rand.NewChaCha8([32]byte{seed})
	pairs := make([]pair, n)
	for i := range pairs {
		value := make([]byte, 100)
		_, _ = random.Read(value) // never fails
		pairs[i] = pair{ds.NewKey(fmt.Sprintf("%s/%08d", parent, i)), value}
	}
	return pairs
}

// verify compares all that a datastore holds with what it should.
func verify(ctx context.Context, db ds.Datastore, want ...[]pair) error {
	held, err := contents(ctx, db, query.Query{})
	if err != nil {
		return err
	}
	total := 0
	for _, pairs := range want {
		total += len(pairs)
		if err := verifyPairs(held, pairs); err != nil {
			return err
		}
	}
	if len(held) != total {
		return fmt.Errorf("%d pairs are there instead of %d", len(held), total)
	}
	return nil
}

func verifyPairs(held map[string][]byte, want []pair) error {
	for _, p := range want {
		if value, ok := held[p.key.String()]; !ok || !bytes.Equal(value, p.value) {
			return fmt.Errorf("%s is wrong or missing (of %d pairs)", p.key, len(held))
		}
	}
	return nil
}

func contents(ctx context.Context, db ds.Datastore, q query.Query) (map[string][]byte, error) {
	results, err := db.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	entries, err := results.Rest()
	held := make(map[string][]byte, len(entries))
	for _, entry := range entries {
		held[entry.Key] = entry.Value
	}
	return held, err
}
