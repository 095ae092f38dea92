package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
)

func TestTwoNodesShareAStore(t *testing.T) {
	a := startSession(t, local(t.TempDir())...)
	b := t.TempDir()

	// What a command writes is at the other node before the command returns.
	runOK(t, local(b, "-connect", a.address, "put", "/from/b", "hello", "there")...)
	if got := a.ask("get /from/b"); got != "hello there\n" {
		t.Fatalf("a has %q; b said it had handed over", got)
	}

	c := startSession(t, local(b, "-connect", a.address)...)
	a.ask(`put /from/a "good morning"`)
	waitFor(t, "b to hear from a", func() bool { return c.ask("get /from/a") == "good morning\n" })
	c.ask("del /from/a")
	waitFor(t, "a to hear of the deletion", func() bool { return a.ask("list") == "/from/b\thello there\n" })
	waitFor(t, "the two to agree", func() bool { return strings.Contains(a.ask("peers"), "has all we have") })
}

func TestConnectCommand(t *testing.T) {
	a, b := startSession(t, local(t.TempDir())...), startSession(t, local(t.TempDir())...)
	a.ask("put /k v")
	b.ask("connect " + a.address)
	waitFor(t, "b to get what a had", func() bool { return b.ask("get /k") == "v\n" })
}

func TestPeersThatDoNotConfirmAreReported(t *testing.T) {
	a := startSession(t, local(t.TempDir())...)
	var notes bytes.Buffer
	args := local(t.TempDir(), "-connect", a.address, "-wait", "1ns", "put", "k", "v")
	must(t, run(t.Context(), args, stdio{out: io.Discard, notes: &notes}))
	if !strings.Contains(notes.String(), "not all connected peers") {
		t.Fatalf("the program says %q", &notes)
	}
}

func TestExportImport(t *testing.T) {
	from, to, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "pairs.tsv")
	var names bytes.Buffer
	_, err := writeTSV(&names, withoutErrors(unicodeTable('A', 'ÿ')))
	must(t, err)
	must(t, os.WriteFile(file, names.Bytes(), 0o600))

	runOK(t, local(from, "import", file)...)
	runOK(t, local(from, "put", "/odd key", "tab\tand \x00\xff")...)
	runOK(t, local(from, "export", file+".2")...)
	runOK(t, local(to, "import", file+".2")...)
	if a, b := runOK(t, local(from, "list")...), runOK(t, local(to, "list")...); a != b {
		t.Fatalf("exported:\n%simported:\n%s", a, b)
	}
	if got := runOK(t, local(to, "get", "/odd key")...); got != "tab\tand \x00\xff\n" {
		t.Fatalf("got %q", got)
	}
}

func TestStoreAndPeerIDOutliveTheProgram(t *testing.T) {
	dir := t.TempDir()
	first := startSession(t, local(dir)...)
	first.ask("put /k v")
	first.end()
	again := startSession(t, local(dir)...)
	if got := again.ask("get /k"); got != "v\n" {
		t.Errorf("after a restart /k is %q", got)
	}
	if before, after := filepath.Base(first.address), filepath.Base(again.address); before != after {
		t.Errorf("the peer id was %s and is %s", before, after)
	}
}

func TestList(t *testing.T) {
	s := startSession(t, local(t.TempDir())...)
	for _, key := range []string{"/fruit/apple", "/fruit/pear", "/fruitcake"} {
		s.ask("put " + key + " 1")
	}
	if got := s.ask("list /fruit"); got != "/fruit/apple\t1\n/fruit/pear\t1\n" {
		t.Errorf("list /fruit prints %q", got)
	}
}

func TestStatsAndDAG(t *testing.T) {
	s := startSession(t, local(t.TempDir())...)
	s.ask("put /k v")
	got := strings.Join(strings.Fields(s.ask("stats")), " ")
	if !strings.HasPrefix(got, "keys 1 peers 0 queued jobs 0 height 1 heads 1 bafy") || !strings.HasSuffix(got, "void checkpoints 0 dirty false") {
		t.Errorf("stats prints %q", got)
	}
	if got := s.ask("dag"); !strings.HasPrefix(got, "digraph") {
		t.Errorf("dag prints %q", got)
	}
	if got := s.ask("help"); !strings.Contains(got, "put KEY VALUE") {
		t.Errorf("help prints %q", got)
	}
}

func TestCheckpointAndCompact(t *testing.T) {
	s := startSession(t, local(t.TempDir())...)
	for i := range 5 {
		s.ask(fmt.Sprint("put /k ", i))
	}
	root := s.ask("root")
	head := strings.TrimSpace(s.ask("checkpoint"))
	if got := s.ask("stats"); !strings.Contains(got, "last checkpoint") || !strings.Contains(got, head) {
		t.Errorf("checkpoint prints %q, and stats %q", head, got)
	}
	if got := s.ask("compact"); !strings.HasPrefix(got, "dropped 5 blocks and ") && !strings.HasPrefix(got, "dropped 6 blocks and ") {
		t.Errorf("compact prints %q", got)
	}
	if got := s.ask("get /k"); got != "4\n" || !strings.HasPrefix(root, "bafy") {
		t.Errorf("/k is %q, and the root was %q", got, root)
	}
}

func TestBadCommandsAreExplained(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ args, complaint string }{
		{"frobnicate", `there is no command "frobnicate"`},
		{"put lonely", "usage: put KEY VALUE"},
		{"get", "usage: get KEY"},
		{"get a b", "usage: get KEY"},
		{"put / value", `"/" names no key`},
		{"del //", `"//" names no key`},
		{"put \xff value", "is not UTF-8"},
		{"get missing", "there is no key /missing"},
		{"connect nowhere", `"nowhere" is no address like /ip4/`},
		{"import /does/not/exist", "no such file"},
		{"export /does/not/exist", "no such file"},
	} {
		err := run(t.Context(), local(dir, strings.Fields(test.args)...), stdio{out: io.Discard, notes: io.Discard})
		if err == nil || !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("%s: got %v, want %s", test.args, err, test.complaint)
		}
	}
}

func TestScriptReportsFailures(t *testing.T) {
	var out, notes bytes.Buffer
	script := "put /a 1\n\nget \"unfinished\nfrobnicate\nget /a\nquit\nget /never\n"
	err := run(t.Context(), local(t.TempDir()), stdio{strings.NewReader(script), &out, &notes})
	if err == nil || err.Error() != "2 of the commands failed" {
		t.Errorf("the script ends with %v and says %s", err, &notes)
	}
	if out.String() != "1\n" {
		t.Errorf("the commands print %q", &out)
	}
}

func TestBadStoresAreExplained(t *testing.T) {
	inUse, noKey := t.TempDir(), t.TempDir()
	startSession(t, local(inUse)...)
	must(t, os.WriteFile(filepath.Join(noKey, "identity.key"), []byte("junk"), 0o600))
	for complaint, args := range map[string][]string{
		"cannot open the store in " + inUse: local(inUse, "list"),
		"holds no private key":              local(noKey, "list"),
		"cannot listen on nonsense":         {"-data", t.TempDir(), "-listen", "nonsense", "list"},
	} {
		err := run(t.Context(), args, stdio{out: io.Discard, notes: io.Discard})
		if err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%q: got %v, want %s", args, err, complaint)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                             nil,
		"  put  /k\tv ":                {"put", "/k", "v"},
		`put "/a key" "two\tparts" x"`: {"put", "/a key", "two\tparts", `x"`},
		`put k ""`:                     {"put", "k", ""},
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v", line, got, err)
		}
	}
	for _, line := range []string{`"`, `get "a`, `get "\q"`} {
		if got, err := splitWords(line); err == nil {
			t.Errorf("%q is taken for %q", line, got)
		}
	}
}

// session is the tool at work in a goroutine, with a test at its keyboard.
type session struct {
	t          *testing.T
	address    string
	in         *io.PipeWriter
	out, notes lockedBuffer
	ended      chan error
	asked      int
}

func startSession(t *testing.T, args ...string) *session {
	t.Helper()
	stdin, keyboard := io.Pipe()
	s := &session{t: t, in: keyboard, ended: make(chan error, 1)}
	go func() { s.ended <- run(context.Background(), args, stdio{stdin, &s.out, &s.notes}) }()
	waitFor(t, "the session to start", func() bool { return strings.Contains(s.notes.String(), "-connect /ip4") })
	_, after, _ := strings.Cut(s.notes.String(), "-connect ")
	s.address, _, _ = strings.Cut(after, "\n")
	t.Cleanup(s.end)
	return s
}

// ask types a command and returns what it prints. Its end is known from the
// error of another command, which is typed after it.
func (s *session) ask(command string) string {
	s.t.Helper()
	s.asked++
	mark, before := fmt.Sprintf("mark%d", s.asked), len(s.out.String())
	_, err := fmt.Fprintf(s.in, "%s\n%s\n", command, mark)
	must(s.t, err)
	waitFor(s.t, "an answer to "+command, func() bool { return strings.Contains(s.notes.String(), `"`+mark+`"`) })
	return s.out.String()[before:]
}

func (s *session) end() {
	if s.in.Close(); s.ended != nil {
		<-s.ended
		s.ended = nil
	}
}

// lockedBuffer can be read while a program still writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// trigger does something once when a text is written to it.
type trigger struct {
	at string
	do func()
}

func (w *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.at)) {
		w.do()
	}
	return len(p), nil
}

// local is a command line for a node that keeps to this machine.
func local(dir string, args ...string) []string {
	return append([]string{"-data", dir, "-listen", "/ip4/127.0.0.1/tcp/0", "-mdns=false"}, args...)
}

func runOK(t *testing.T, args ...string) string {
	t.Helper()
	var out, notes bytes.Buffer
	if err := run(t.Context(), args, stdio{out: &out, notes: &notes}); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, &notes)
	}
	return out.String()
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if await(ctx, done) != nil {
		t.Fatalf("waited in vain for %s", what)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustKey(t *testing.T, name string) ds.Key {
	t.Helper()
	key, err := parseKey(name)
	must(t, err)
	return key
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind in %s: %v (%v)", dir, left, err)
	}
}
