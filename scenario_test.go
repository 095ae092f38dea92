package crdt

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	cid "github.com/ipfs/go-cid"
	query "github.com/ipfs/go-datastore/query"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	merkledag "github.com/ipfs/go-merkledag"
)

var updateScenarios = flag.Bool("update", false, "write what TestScenarios finds into its files: read it before you believe it")

// The files in testdata/scenarios tell how a replica goes on from block to block.
// Each line is a command. Below it, indented, stands what the replica knows then:
//
//	block NAME [on BLOCK...] [skip BLOCK...] [put KEY=VALUE...] [remove KEY@BLOCK...]
//	      [claim KEY=VALUE@BLOCK...] [dag NAME] [height N] [summary] [refused]
//	merge BLOCK...    they have come, and are merged in one commit
//	restart           and ask for what is missing
//	purge [DAG]
//	spread N          look at no more parents, and links of theirs, in one commit
//
// A block is one above those that it is on, if nothing else is said; BLOCK/v0 is a
// link by a CID of version 0. A claim is about a put of the block that it names.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = playScenario(t, string(want)) })
			switch {
			case got == string(want):
			case *updateScenarios:
				err = os.WriteFile(file, []byte(got), 0o666)
			default:
				t.Errorf("%s tells something else:\n%s", file, got)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// playScenario returns a scenario with what comes of it now.
func playScenario(t *testing.T, text string) string {
	s := &scenario{t: t, r: newTestNet().newReplica(t, silent), blocks: make(map[string]*scenarioBlock)}
	var played strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "\t") {
			continue
		}
		played.WriteString(line)
		words := strings.Fields(line)
		if len(words) > 0 && words[0] != "#" && s.run(words[0], words[1:]) {
			checkRows(t, s.r)
			played.WriteString(s.state())
		}
	}
	return played.String()
}

type scenario struct {
	t      *testing.T
	r      *replica
	blocks map[string]*scenarioBlock
}

type scenarioBlock struct {
	cid   cid.Cid
	id    blockID
	raw   []byte
	delta *pb.Delta
}

// run runs a command, and reports whether it may have changed the replica.
func (s *scenario) run(command string, args []string) bool {
	switch command {
	case "block":
		s.make(args[0], args[1:])
		return false
	case "spread":
		s.r.limitCommits(s.number(args[0]), maxValueBytes)
		return false
	case "merge":
		s.merge(args)
	case "restart":
		s.r.restart()
	case "purge":
		_, err := s.r.PurgeDAG(ctx, strings.Join(args, ""))
		s.r.must(err)
	default:
		s.t.Fatalf("no command %q", command)
	}
	synctest.Wait()
	return true
}

func (s *scenario) number(word string) int {
	n, err := strconv.Atoi(word)
	s.r.must(err)
	return n
}

func (s *scenario) block(name string) *scenarioBlock {
	b := s.blocks[name]
	if b == nil {
		s.t.Fatalf("no block %q", name)
	}
	return b
}

func (s *scenario) make(name string, words []string) {
	b := &scenarioBlock{delta: &pb.Delta{Priority: 1}}
	node := merkledag.NodeWithData(nil)
	node.SetCidBuilder(blockPrefix)
	for clause := ""; len(words) > 0; words = words[1:] {
		switch word := words[0]; word {
		case "on", "skip", "put", "remove", "claim", "dag", "height":
			clause = word
		case "summary":
			b.delta.Snapshot = true
		case "refused":
			b.delta.DagName = ".." // names no DAG
		default:
			s.add(b, node, clause, word)
		}
	}
	node.SetData(marshalDelta(s.t, b.delta))
	b.cid, b.raw = node.Cid(), node.RawData()
	var err error
	b.id, err = blockIDOf(b.cid)
	s.r.must(err)
	s.blocks[name] = b
}

// add adds one thing of a clause to a block.
func (s *scenario) add(b *scenarioBlock, node *merkledag.ProtoNode, clause, word string) {
	d := b.delta
	of, at, _ := strings.Cut(word, "@")
	key, value, _ := strings.Cut(of, "=")
	switch clause {
	case "on", "skip":
		name, v0 := strings.CutSuffix(word, "/v0")
		below := s.block(name)
		l := &ipld.Link{Cid: link{below.id, v0}.Cid()}
		s.r.must(node.AddRawLink(map[string]string{"on": "", "skip": skipLink}[clause], l))
		d.Priority = max(d.Priority, below.delta.Priority+1)
	case "put":
		d.Elements = append(d.Elements, &pb.Element{Key: key, Value: []byte(value)})
	case "remove":
		d.Tombstones = append(d.Tombstones, &pb.Element{Key: key, Id: s.block(at).id.dsKey()})
	case "claim":
		about := s.block(at)
		d.Elements = append(d.Elements, &pb.Element{Key: key, Value: []byte(value), Id: about.id.dsKey(), Priority: about.delta.Priority})
	case "dag":
		d.DagName = word
	case "height":
		d.Priority = uint64(s.number(word))
	default:
		s.t.Fatalf("what is %q?", word)
	}
}

// merge does to blocks what the merger does: in one commit.
func (s *scenario) merge(names []string) {
	for _, name := range names {
		b := s.block(name)
		s.r.must(s.r.node.addRaw(b.cid, b.raw))
	}
	synctest.Wait() // after a restart some are asked for
	s.r.must(s.r.committer.do(ctx, func(c *commit) error {
		for _, name := range names {
			b := s.block(name)
			_, queued, err := s.r.Datastore.store.getRow(ctx, s.r.Datastore.store.keys.queued(b.id))
			s.r.must(err)
			decoded, err := s.r.Datastore.blocks.decode(b.id, b.raw)
			if errors.Is(err, ErrInvalidBlock) {
				_, err = c.refuse(ctx, &block{id: b.id, queued: queued})
			} else if err == nil {
				decoded.queued = queued
				err = c.merge(ctx, decoded)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// state says what is in the store.
func (s *scenario) state() string {
	keys := s.r.Datastore.store.keys
	var b strings.Builder
	row := func(what, prefix string, parts int, say func(query.Entry) string) {
		var all []string
		for e, err := range s.r.Datastore.store.rowsOf(ctx, prefix, parts, false) {
			s.r.must(err)
			all = append(all, say(e))
		}
		if slices.Sort(all); len(all) > 0 {
			fmt.Fprintf(&b, "\t%-10s %s\n", what, strings.Join(all, ", "))
		}
	}
	row("blocks", keys.blocks, 1, s.sayMark)
	row("heads", keys.heads, 1, s.sayHead)
	row("heads", keys.dagHeads, 2, s.sayHead)
	row("head to be", keys.pendingHeads, 1, s.sayPendingHead)
	row("missing", keys.queue, 1, s.sayMissing)
	row("tombstones", keys.tombstones, 2, s.sayVersion)
	row("losers", keys.losers, 2, s.sayVersion)
	row("pairs", keys.records, 1, func(e query.Entry) string {
		return e.Key + "=" + s.r.get(e.Key)
	})
	return b.String()
}

func (s *scenario) name(id blockID) string {
	for name, b := range s.blocks {
		if b.id == id {
			return name
		}
	}
	return "unknown"
}

func (s *scenario) sayMark(e query.Entry) string {
	_, id, _ := splitID(e.Key)
	m, err := decodeMark(e.Value)
	s.r.must(err)
	said := s.name(id) + " " + []string{complete: "complete", pending: "pending", refused: "refused", stranded: "stranded"}[m.state]
	if m.state == pending {
		said += fmt.Sprintf(" (%d missing)", m.missing)
	}
	if m.neverHead {
		said += " (never a head)"
	}
	return said
}

func (s *scenario) sayHead(e query.Entry) string {
	dagName, id, _ := splitID(e.Key)
	height, _ := binary.Uvarint(e.Value)
	return s.sayTip(id, HeadValue{height, strings.Trim(dagName, "/")})
}

func (s *scenario) sayPendingHead(e query.Entry) string {
	_, id, _ := splitID(e.Key)
	height, n := binary.Uvarint(e.Value)
	return s.sayTip(id, HeadValue{height, string(e.Value[n:])})
}

func (s *scenario) sayTip(id blockID, v HeadValue) string {
	if v.DAGName == "" {
		return fmt.Sprintf("%s at %d", s.name(id), v.Height)
	}
	return fmt.Sprintf("%s at %d of %s", s.name(id), v.Height, v.DAGName)
}

func (s *scenario) sayMissing(e query.Entry) string {
	_, id, _ := splitID(e.Key)
	w := decodeWanted(id, e.Value)
	said := fmt.Sprintf("%s at %d or less", s.name(id), w.height)
	if w.height == anyHeight {
		said = s.name(id) + " at any height"
	}
	if w.v0 {
		said += " (CIDv0)"
	}
	return said
}

func (s *scenario) sayVersion(e query.Entry) string {
	key, id, _ := splitID(e.Key)
	return "/" + strings.TrimPrefix(strings.Trim(key, "/"), "%2F") + " of " + s.name(id)
}
