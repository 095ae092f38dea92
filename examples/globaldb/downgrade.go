package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	crdt "github.com/ipfs/go-ds-crdt"
)

// runDowngrade turns the store back into one that the old module opens. No
// network is needed, and nobody else may have the store open.
func runDowngrade(ctx context.Context, cfg config, std stdio) (err error) {
	if len(cfg.args) > 1 {
		return fmt.Errorf("downgrade takes no arguments; %w", errUsage)
	}
	if _, err := os.Stat(filepath.Join(cfg.data, "badger")); err != nil {
		return fmt.Errorf("there is no store in %s: %w", cfg.data, err)
	}
	store, err := openBadger(cfg.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	blocks := blockstore.NewBlockstore(store)
	dag := merkledag.NewDAGService(blockservice.New(blocks, offline.Exchange(blocks)))
	if err := crdt.Downgrade(ctx, store, namespace, dag); err != nil {
		return err
	}
	if err := store.Sync(ctx, namespace); err != nil {
		return err
	}
	fmt.Fprintf(std.notes, "the store in %s is now one for the old module; to open it here turns it back\n", cfg.data)
	return nil
}
