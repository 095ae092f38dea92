package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// loadOnce gives the first replica its keys and its history, unless it is kept and has
// them. A file beside the store says that it has.
func (b *bench) loadOnce(ctx context.Context, first *replica) error {
	if b.keep == "" {
		return b.fillFirst(ctx, first)
	}
	loaded := filepath.Join(b.keep, "loaded")
	_, err := os.Stat(loaded)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(first.InternalStats(ctx).Heads) > 0 {
		return fmt.Errorf("the load into %s was cut off: remove that", b.keep)
	}
	if err := b.fillFirst(ctx, first); err != nil {
		return err
	}
	return os.WriteFile(loaded, nil, 0o600)
}

func (b *bench) fillFirst(ctx context.Context, first *replica) error {
	if err := b.load(ctx, first); err != nil {
		return err
	}
	if err := b.overwrite(ctx, first); err != nil {
		return err
	}
	return b.checkpoint(ctx, first)
}
