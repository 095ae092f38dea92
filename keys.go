package crdt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	ds "github.com/ipfs/go-datastore"
)

// MaxKeyLength is the greatest length of a key in bytes. It leaves every row
// that is made from a key well below what common stores allow.
const MaxKeyLength = 16 << 10

// cleanKey returns a key as ds.NewKey makes it, or why that can hold no value.
// Keys from peers become rows of the user's store: none gets in otherwise.
func cleanKey(key string) (string, error) {
	switch key = ds.NewKey(key).String(); {
	case holdsValue(key):
		return key, nil
	case key == "/":
		return "", fmt.Errorf("%w: the root key holds no value", ErrInvalidKey)
	case len(key) > MaxKeyLength:
		return "", fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidKey, len(key), MaxKeyLength)
	}
	return "", fmt.Errorf("%w: %.100q is not valid UTF-8", ErrInvalidKey, key)
}

// holdsValue reports whether a clean key can hold a value.
func holdsValue(clean string) bool {
	return clean != "/" && len(clean) <= MaxKeyLength && utf8.ValidString(clean)
}

// isKey reports whether a key is clean and can hold a value.
func isKey(key string) bool { return ds.NewKey(key).String() == key && holdsValue(key) }

// maxDAGNameLength is the greatest length of a DAG's name in bytes.
const maxDAGNameLength = 255

// checkDAGName reports why a name cannot name a DAG. "" is the unnamed DAG.
func checkDAGName(name string) error {
	if name == "" {
		return nil
	}
	if !isKey("/"+name) || strings.Contains(name, "/") || len(name) > maxDAGNameLength {
		return fmt.Errorf("crdt: DAG name %.300q is not a single clean path part of up to %d bytes", name, maxDAGNameLength)
	}
	return nil
}

// InternalNamespaces are the names, under the user's namespace, of what a
// datastore keeps in the store. An empty field means its default. They must
// be different, single path parts other than "q", "p", "r" and "w", which
// hold rows of their own.
type InternalNamespaces struct {
	Heads           string // heads of the unnamed DAG; default "h"
	DAGHeads        string // heads of the named DAGs; default "a"
	Set             string // the pairs; default "s"
	ProcessedBlocks string // merged blocks; default "b"
	DirtyBitKey     string // set while a repair is due; default "d"
	BadShutdownKey  string // set while open; default "bs"
	VersionKey      string // the format version; default "crdt_version"
}

func (n *InternalNamespaces) fields() []*string {
	return []*string{&n.Heads, &n.DAGHeads, &n.Set, &n.ProcessedBlocks, &n.DirtyBitKey, &n.BadShutdownKey, &n.VersionKey}
}

// complete fills in the defaults and checks the result.
func (n InternalNamespaces) complete() (InternalNamespaces, error) {
	def := InternalNamespaces{"h", "a", "s", "b", "d", "bs", "crdt_version"}
	used := map[string]bool{"q": true, "p": true, "r": true, "w": true}
	var errs []error
	defaults := def.fields()
	for i, f := range n.fields() {
		*f = strings.Trim(*f, "/")
		if *f == "" {
			*f = *defaults[i]
		}
		if used[*f] || checkDAGName(*f) != nil {
			errs = append(errs, fmt.Errorf("crdt: internal namespace %q is taken, or not a single clean path part", *f))
		}
		used[*f] = true
	}
	return n, errors.Join(errs...)
}

// keyspace names every row that a datastore keeps in the user's store. Each
// string is a prefix without a slash at its end.
type keyspace struct {
	namespace    ds.Key
	heads        string // <id>: height
	dagHeads     string // <dag>/<id>: height
	records      string // <key>: record
	losers       string // <escaped key>/<id>: loser
	tombstones   string // <key>/<id>: nothing
	claims       string // <id>/<escaped key>: summary, key; <id>: DAG name
	blocks       string // <id>: mark
	queue        string // <id>: at most this height
	waiting      string // w/<child id>: parents; <child id>/<parent id>: nothing; <id>: links
	pendingHeads string // <id>: height, DAG name
	checkpoints  string // <id>: what is known of a checkpoint
	segments     string // <root id>: whole; <root id>/<bucket>: ids
	toSweep      string // <n>: pages to be removed from the DAG service
	oldSet       string // what formats 0 and 1 kept in <set>/s and <set>/k
	oldValues    string

	dirty, open, version, redo, purged, spare, dropping ds.Key
}

func newKeyspace(namespace ds.Key, n InternalNamespaces) *keyspace {
	root := strings.TrimSuffix(ds.NewKey(namespace.String()).String(), "/")
	in := func(parts ...string) string { return root + "/" + strings.Join(parts, "/") }
	return &keyspace{
		namespace:    ds.NewKey(namespace.String()),
		heads:        in(n.Heads),
		dagHeads:     in(n.DAGHeads),
		records:      in(n.Set, "r"),
		losers:       in(n.Set, "l"),
		tombstones:   in(n.Set, "t"),
		claims:       in(n.Set, "c"),
		blocks:       in(n.ProcessedBlocks),
		queue:        in("q"),
		waiting:      in("p"),
		pendingHeads: in("r"),
		checkpoints:  in("w", "c"),
		segments:     in("w", "s"),
		toSweep:      in("w", "d"),
		oldSet:       in(n.Set, "s"),
		oldValues:    in(n.Set, "k"),
		dirty:        ds.RawKey(in(n.DirtyBitKey)),
		open:         ds.RawKey(in(n.BadShutdownKey)),
		version:      ds.RawKey(in(n.VersionKey)),
		redo:         ds.RawKey(in("w")),
		purged:       ds.RawKey(in("w", "purged")),
		spare:        ds.RawKey(in("w", "s")),
		dropping:     ds.RawKey(in("w", "dropping")),
	}
}

// has reports whether a row can be one of this datastore's.
func (k *keyspace) has(row string) bool {
	root := strings.TrimSuffix(k.namespace.String(), "/") + "/"
	return strings.HasPrefix(row, root) && !strings.HasSuffix(row, "/")
}

func (k *keyspace) head(id blockID, v HeadValue) ds.Key {
	if v.DAGName == "" {
		return ds.RawKey(id.under(k.heads))
	}
	return ds.RawKey(id.under(k.dagHeads + "/" + v.DAGName))
}

func (k *keyspace) record(key string) ds.Key { return ds.RawKey(k.records + key) }

// escapeKey turns a key into a single path part, so that what is kept for a
// key is never found among what is kept for the keys below it.
var escapeKey = strings.NewReplacer("%", "%25", "/", "%2F")

// losersOf is the prefix of a key's losing versions, and of nothing else.
func (k *keyspace) losersOf(key string) string { return k.losers + "/" + escapeKey.Replace(key) }

func (k *keyspace) loser(key string, id blockID) ds.Key {
	return ds.RawKey(id.under(k.losersOf(key)))
}

func (k *keyspace) tombstone(key string, id blockID) ds.Key {
	return ds.RawKey(id.under(k.tombstones + key))
}

// oldVersion is the row of a version in formats 0 and 1.
func (k *keyspace) oldVersion(key string, id blockID) ds.Key {
	return ds.RawKey(id.under(k.oldSet + key))
}

func (k *keyspace) block(id blockID) ds.Key  { return ds.RawKey(id.under(k.blocks)) }
func (k *keyspace) queued(id blockID) ds.Key { return ds.RawKey(id.under(k.queue)) }

func (k *keyspace) pendingHead(id blockID, _ HeadValue) ds.Key {
	return ds.RawKey(id.under(k.pendingHeads))
}

func (k *keyspace) checkpoint(id blockID, _ *checkpoint) ds.Key {
	return ds.RawKey(id.under(k.checkpoints))
}

func (k *keyspace) pagesToSweep(n int) ds.Key { return ds.RawKey(fmt.Sprintf("%s/%d", k.toSweep, n)) }

// links is the row of a pending block's links, if these are many.
func (k *keyspace) links(id blockID) ds.Key { return ds.RawKey(id.under(k.waiting)) }

// waiters is the row of what waits for a child, and what finds no place in it is in rows
// below waitingOn.
func (k *keyspace) waiters(child blockID) ds.Key { return ds.RawKey(child.under(k.waiting + "/w")) }

func (k *keyspace) waitingOn(child blockID) string { return child.under(k.waiting) }

func (k *keyspace) wait(child, parent blockID) ds.Key {
	return ds.RawKey(parent.under(k.waitingOn(child)))
}

// segment is the row that says that all rows of a segment are there.
func (k *keyspace) segment(root blockID) ds.Key { return ds.RawKey(root.under(k.segments)) }

// bucket is the row of some ids of a segment. The first one of a bucket has no number.
func (k *keyspace) bucket(root blockID, bucket, part uint64) ds.Key {
	name := root.under(k.segments) + "/" + strconv.FormatUint(bucket, 16)
	if part > 0 {
		name += "/" + strconv.FormatUint(part, 16)
	}
	return ds.RawKey(name)
}

// splitID takes the block id off the end of a row's key.
func splitID(row string) (rest string, id blockID, ok bool) {
	i := strings.LastIndexByte(row, '/')
	if i < 0 {
		return "", blockID{}, false
	}
	id, ok = parseBlockID(row[i+1:])
	return row[:i], id, ok
}
