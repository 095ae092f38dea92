package main

import (
	"context"
	"fmt"
	"strings"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// weight is what a replica keeps: rows of its own, and blocks that it serves to others.
type weight struct {
	rows, rowBytes     int
	blocks, blockBytes int
}

func (w weight) String() string {
	return fmt.Sprintf("%s rows of %s bytes, %s blocks of %s bytes",
		thousands(w.rows), thousands(w.rowBytes), thousands(w.blocks), thousands(w.blockBytes))
}

// weigh looks at all that is in the store of a node.
func (n *node) weigh(ctx context.Context) (w weight, err error) {
	for row, err := range ds.QueryIter(ctx, n.store, query.Query{}) {
		switch {
		case err != nil:
			return w, err
		case strings.HasPrefix(row.Key, namespace.String()+"/"):
			w.rows, w.rowBytes = w.rows+1, w.rowBytes+len(row.Key)+len(row.Value)
		case strings.HasPrefix(row.Key, "/blocks/"):
			w.blocks, w.blockBytes = w.blocks+1, w.blockBytes+len(row.Value)
		}
	}
	return w, nil
}
