package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// command is something the shell can do.
type command struct {
	usage    string // name and arguments
	help     string
	min, max int  // number of arguments; max < 0 is any
	writes   bool // to the store
	run      func(s *shell, ctx context.Context, args []string) error
}

func (c command) name() string {
	name, _, _ := strings.Cut(c.usage, " ")
	return name
}

func commands() []command {
	return []command{
		{"put KEY VALUE", "store a value; more words are joined with blanks", 2, -1, true, (*shell).put},
		{"get KEY", "print a value", 1, 1, false, (*shell).get},
		{"del KEY", "remove a key", 1, 1, true, (*shell).del},
		{"list [PREFIX]", "print the pairs below PREFIX, or all", 0, 1, false, (*shell).list},
		{"import FILE", "store the pairs of a file: key, tab, value", 1, 1, true, (*shell).importFile},
		{"export FILE", "write all pairs to such a file", 1, 1, false, (*shell).exportFile},
		{"connect ADDR", "connect to a peer and stay connected", 1, 1, false, (*shell).connectPeer},
		{"peers", "print the connected peers, and whether they have all we have", 0, 0, false, (*shell).peers},
		{"stats", "print the state of the replica", 0, 0, false, (*shell).stats},
		{"root", "print what names the state: replicas that print the same hold the same pairs", 0, 0, false, (*shell).root},
		{"checkpoint", "make a checkpoint: newcomers then fetch what there is, and not how it came about", 0, 0, true, (*shell).checkpoint},
		{"compact", "drop the history that checkpoints cover", 0, 0, false, (*shell).compact},
		{"dag", "print the replica's DAG for Graphviz", 0, 0, false, (*shell).dag},
		{"help", "print this list", 0, 0, false, (*shell).help},
		{"quit", "end, as does the end of the input", 0, 0, false, (*shell).quit},
	}
}

// findCommand finds the command that args[0] names and checks their number.
func findCommand(args []string) (command, error) {
	for _, c := range commands() {
		if c.name() != args[0] {
			continue
		}
		if got := len(args) - 1; got < c.min || c.max >= 0 && got > c.max {
			return c, fmt.Errorf("usage: %s", c.usage)
		}
		return c, nil
	}
	return command{}, fmt.Errorf("there is no command %q; help lists those there are", args[0])
}

func (s *shell) put(ctx context.Context, args []string) error {
	key, err := parseKey(args[0])
	if err != nil {
		return err
	}
	return s.node.replica.Put(ctx, key, []byte(strings.Join(args[1:], " ")))
}

func (s *shell) get(ctx context.Context, args []string) error {
	key, err := parseKey(args[0])
	if err != nil {
		return err
	}
	value, err := s.node.replica.Get(ctx, key)
	if errors.Is(err, ds.ErrNotFound) {
		return fmt.Errorf("there is no key %s", key)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s\n", value)
	return err
}

func (s *shell) del(ctx context.Context, args []string) error {
	key, err := parseKey(args[0])
	if err != nil {
		return err
	}
	return s.node.replica.Delete(ctx, key)
}

func (s *shell) list(ctx context.Context, args []string) error {
	prefix := ds.NewKey(strings.Join(args, ""))
	_, err := writeTSV(s.out, readPairs(ctx, s.node.replica, prefix.String()))
	return err
}

func (s *shell) importFile(ctx context.Context, args []string) error {
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	count := 0
	bar := newBar(s.notes, "import", -1)
	err = writePairs(ctx, s.node.replica, readTSV(file), func(n int) {
		count += n
		_ = bar.Add(n)
	})
	_ = bar.Finish()
	fmt.Fprintf(s.notes, "imported %s pairs\n", thousands(count))
	if err != nil {
		return fmt.Errorf("the import of %s stopped: %w", args[0], err)
	}
	return nil
}

func (s *shell) exportFile(ctx context.Context, args []string) error {
	file, err := os.Create(args[0])
	if err != nil {
		return err
	}
	count, err := writeTSV(file, readPairs(ctx, s.node.replica, "/"))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("the export to %s is not complete: %w", args[0], err)
	}
	fmt.Fprintf(s.notes, "exported %s pairs\n", thousands(count))
	return nil
}

func (s *shell) connectPeer(ctx context.Context, args []string) error {
	id, err := s.node.connect(ctx, args[0])
	if err == nil {
		fmt.Fprintln(s.notes, "connected to", id)
	}
	return err
}

func (s *shell) peers(ctx context.Context, _ []string) error {
	for _, conn := range s.node.host.Network().Conns() {
		state := "may lack some of what we have"
		if s.node.holdsOurs(ctx, conn.RemotePeer()) {
			state = "has all we have"
		}
		fmt.Fprintf(s.out, "%s/p2p/%s\t%s\n", conn.RemoteMultiaddr(), conn.RemotePeer(), state)
	}
	return nil
}

func (s *shell) stats(ctx context.Context, _ []string) error {
	keys, err := s.countKeys(ctx)
	if err != nil {
		return err
	}
	stats := s.node.replica.InternalStats(ctx)
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "keys\t%d\npeers\t%d\nqueued jobs\t%d\nheight\t%d\nheads\t%d\n", keys,
		len(s.node.host.Network().Peers()), stats.QueuedJobs, stats.MaxHeight, len(stats.Heads))
	for _, h := range stats.Heads {
		fmt.Fprintf(t, "\t%s at height %d\n", h.Cid, h.Height)
	}
	if last := stats.LastCheckpoint; last.Cid.Defined() {
		fmt.Fprintf(t, "last checkpoint\t%s\n\t%s, %d entries, %d blocks since\n", last.Head, last.Held.Format(time.DateTime), last.Entries, last.BlocksSince)
	}
	fmt.Fprintf(t, "void checkpoints\t%d\ndirty\t%t\n", stats.VoidCheckpoints, s.node.replica.IsDirty(ctx))
	return t.Flush()
}

func (s *shell) countKeys(ctx context.Context) (int, error) {
	results, err := s.node.replica.Query(ctx, query.Query{KeysOnly: true})
	if err != nil {
		return 0, err
	}
	defer results.Close()
	count := 0
	for r, ok := results.NextSync(); ok; r, ok = results.NextSync() {
		if r.Error != nil {
			return 0, r.Error
		}
		count++
	}
	return count, nil
}

func (s *shell) dag(ctx context.Context, _ []string) error {
	return s.node.replica.DotDAG(ctx, s.out)
}

func (s *shell) root(ctx context.Context, _ []string) error {
	root, err := s.node.replica.StateRoot(ctx)
	if err == nil {
		_, err = fmt.Fprintln(s.out, root)
	}
	return err
}

func (s *shell) checkpoint(ctx context.Context, _ []string) error {
	head, err := s.node.replica.Checkpoint(ctx)
	if err == nil {
		_, err = fmt.Fprintln(s.out, head)
	}
	return err
}

func (s *shell) compact(ctx context.Context, _ []string) error {
	dropped, err := s.node.replica.Compact(ctx)
	_, _ = fmt.Fprintf(s.out, "dropped %s blocks and %s rows, %s bytes of blocks\n",
		thousands(dropped.Blocks), thousands(dropped.Rows), thousands(int(dropped.Bytes)))
	return err
}

func (s *shell) help(context.Context, []string) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(t, "%s\t%s\n", c.usage, c.help)
	}
	_, _ = io.WriteString(t, "\nA word with blanks is written \"like a Go string\\n\".\n")
	return t.Flush()
}

func (s *shell) quit(context.Context, []string) error { return errQuit }
