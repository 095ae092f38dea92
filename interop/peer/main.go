// Command peer runs one replica in a process of its own and does what the tests tell
// it on stdin (see package wire). It is built twice from the same source: with go.mod
// against the module of this repository, with old.mod against the released one, for one
// program can't hold two versions of a package. So it may use only what both export; what ours alone has is in
// checkpoints.go, which released.go takes the place of.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func main() {
	dir := flag.String("dir", "", "directory of the store, made if missing")
	opts := options()
	addFlags(opts)
	flag.Parse()
	if err := run(*dir, opts, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves requests until a close request or the end of the input, which comes when
// the test that started us is gone.
func run(dir string, opts *crdt.Options, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	n, err := openNode(ctx, dir, opts)
	if err != nil {
		return err
	}
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	if err := responses.Encode(wire.Response{Addr: n.net.addr()}); err != nil {
		return err
	}
	for {
		var req wire.Request
		if err := requests.Decode(&req); errors.Is(err, io.EOF) {
			return n.close()
		} else if err != nil {
			return err
		}
		if err := responses.Encode(n.answer(ctx, req)); err != nil || req.Op == wire.Close {
			return err
		}
	}
}
