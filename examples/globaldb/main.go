// Globaldb is a key-value store that any number of machines write to and read
// from at once, connected or not. It shows how to put a go-ds-crdt replica on
// a libp2p network, see node.go, and plays through what that is good for when
// run as "globaldb demo".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `globaldb is a key-value store that any number of machines share.

  globaldb demo                                three replicas in one process, start to finish
  globaldb -data DIR [flags]                   read commands from standard input, "help" lists them
  globaldb -data DIR [flags] COMMAND [ARG...]  run one command
  globaldb -data DIR downgrade                 turn the store back into one for the old go-ds-crdt

flags:
`

// errUsage marks mistakes on the command line, which exit with status 2.
var errUsage = errors.New("try -h for help")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	err := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	switch {
	case err == nil:
		return
	case errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	}
	fmt.Fprintln(os.Stderr, "globaldb:", err)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// stdio is where a program reads from and writes to. Results go to out; what
// is meant for a person alone goes to notes.
type stdio struct {
	in         io.Reader
	out, notes io.Writer
}

// config is the command line of the tool.
type config struct {
	data, listen string
	connect      []string
	mdns         bool
	wait         time.Duration
	args         []string
}

func run(ctx context.Context, args []string, std stdio) error {
	cfg, err := parseArgs(args, std.notes)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case len(cfg.args) > 0 && cfg.args[0] == "demo":
		return playDemo(ctx, cfg, std)
	case cfg.data == "":
		return fmt.Errorf("-data is missing: it names the folder of the store; %w", errUsage)
	case len(cfg.args) > 0 && cfg.args[0] == "downgrade":
		return runDowngrade(ctx, cfg, std)
	}
	return runTool(ctx, cfg, std)
}

func parseArgs(args []string, notes io.Writer) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("globaldb", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main reports errors
	flags.StringVar(&cfg.data, "data", "", "keep the store in the folder `DIR`, created if missing")
	flags.StringVar(&cfg.listen, "listen", "/ip4/0.0.0.0/tcp/0", "accept connections on this `ADDR`")
	flags.Func("connect", "stay connected to the peer at this full `ADDR`; may be given again for more peers", func(addr string) error {
		cfg.connect = append(cfg.connect, addr)
		return nil
	})
	flags.BoolVar(&cfg.mdns, "mdns", true, "find peers on the local network")
	flags.DurationVar(&cfg.wait, "wait", 10*time.Second, "before exiting, how long peers get to take over what was written")
	err := flags.Parse(args)
	cfg.args = flags.Args()
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(notes, usage)
		flags.SetOutput(notes)
		flags.PrintDefaults()
	case err != nil:
		err = fmt.Errorf("%w; %w", err, errUsage)
	}
	return cfg, err
}

func playDemo(ctx context.Context, cfg config, std stdio) error {
	if cfg.data != "" || len(cfg.args) > 1 {
		return fmt.Errorf("demo takes no arguments and no -data: it works in a temporary folder; %w", errUsage)
	}
	start := time.Now()
	if err := runDemo(ctx, std.out, std.notes, wholeUnicode()); err != nil {
		return fmt.Errorf("the demo failed: %w", err)
	}
	fmt.Fprintf(std.out, "\nEverything as it should be, in %.1f s.\n", time.Since(start).Seconds())
	return nil
}

// runTool opens the node that the flags describe and runs commands on it.
func runTool(ctx context.Context, cfg config, std stdio) (err error) {
	n, err := openNode(settings{dir: cfg.data, listen: cfg.listen, rebroadcast: 2 * time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if cfg.mdns {
		if err := n.discover(); err != nil {
			fmt.Fprintln(std.notes, "peers on the local network will not be found:", err)
		}
	}
	for _, addr := range cfg.connect {
		if _, err := n.connect(ctx, addr); err != nil {
			return err
		}
	}
	sh := &shell{node: n, stdio: std, config: cfg}
	if len(cfg.args) > 0 {
		return sh.once(ctx, cfg.args)
	}
	return sh.session(ctx)
}
