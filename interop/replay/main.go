// Command replay shows blocks to new replicas, in the order that the tests ask for (see
// package wire), and says what pairs come of them. Like peer it is built twice from the
// same source, and so may use only what both modules export.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/go-ds-crdt/interop/wire"
)

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers until the end of the input.
func serve(in io.Reader, out io.Writer) error {
	requests, outcomes := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var req wire.Replay
		if err := requests.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := outcomes.Encode(answer(req)); err != nil {
			return err
		}
	}
}

func answer(req wire.Replay) wire.Outcome {
	var out wire.Outcome
	if err := replay(req, &out); err != nil {
		out.Error = err.Error()
	}
	return out
}
