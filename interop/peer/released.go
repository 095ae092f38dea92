//go:build released

package main

import (
	"context"
	"errors"

	"github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/interop/wire"
)

// The released module knows no checkpoints.

var errReleased = errors.New("the released module has no such call")

func addFlags(*crdt.Options) {}

func lastCheckpoint(crdt.Stats) uint64 { return 0 }

func (n *node) checkpoint(context.Context) error { return errReleased }

func (n *node) compact(context.Context, *wire.Response) error { return errReleased }
