package crdt_test

import (
	"context"
	"io"
	"testing"
	"time"

	cid "github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	query "github.com/ipfs/go-datastore/query"
	crdt "github.com/ipfs/go-ds-crdt"
	"github.com/ipfs/go-ds-crdt/pb"
	ipld "github.com/ipfs/go-ipld-format"
	logging "github.com/ipfs/go-log/v2"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
)

// What programs written for the old module compile against: this file fails to
// compile when a name is missing, or has another type.

// Functions and variables.
var (
	_ error = crdt.ErrNoMoreBroadcast

	_ func() *crdt.Options = crdt.DefaultOptions

	_ func(ds.Datastore, ds.Key, ipld.DAGService, crdt.Broadcaster, *crdt.Options) (*crdt.Datastore, error) = crdt.New

	_ func(ds.Datastore, ds.Key, ipld.DAGService, crdt.Broadcaster, *crdt.Options, *crdt.MerkleCRDTOptions) (*crdt.MerkleCRDT, error) = crdt.NewMerkleCRDT

	_ func(context.Context, *pubsub.PubSub, string) (*crdt.PubSubBroadcaster, error) = crdt.NewPubSubBroadcaster
)

// Methods of Datastore.
var (
	_ ds.Datastore = (*crdt.Datastore)(nil)
	_ ds.Batching  = (*crdt.Datastore)(nil)

	_ func(*crdt.Datastore, context.Context, ds.Key) ([]byte, error)             = (*crdt.Datastore).Get
	_ func(*crdt.Datastore, context.Context, ds.Key) (bool, error)               = (*crdt.Datastore).Has
	_ func(*crdt.Datastore, context.Context, ds.Key) (int, error)                = (*crdt.Datastore).GetSize
	_ func(*crdt.Datastore, context.Context, query.Query) (query.Results, error) = (*crdt.Datastore).Query
	_ func(*crdt.Datastore, context.Context, ds.Key, []byte) error               = (*crdt.Datastore).Put
	_ func(*crdt.Datastore, context.Context, ds.Key) error                       = (*crdt.Datastore).Delete
	_ func(*crdt.Datastore, context.Context, ds.Key) error                       = (*crdt.Datastore).Sync
	_ func(*crdt.Datastore, context.Context) (ds.Batch, error)                   = (*crdt.Datastore).Batch
	_ func(*crdt.Datastore) error                                                = (*crdt.Datastore).Close
	_ func(*crdt.Datastore, context.Context) error                               = (*crdt.Datastore).Repair
	_ func(*crdt.Datastore, context.Context)                                     = (*crdt.Datastore).MarkDirty
	_ func(*crdt.Datastore, context.Context)                                     = (*crdt.Datastore).MarkClean
	_ func(*crdt.Datastore, context.Context) bool                                = (*crdt.Datastore).IsDirty
	_ func(*crdt.Datastore, context.Context) error                               = (*crdt.Datastore).PrintDAG
	_ func(*crdt.Datastore, context.Context, io.Writer) error                    = (*crdt.Datastore).DotDAG
	_ func(*crdt.Datastore, context.Context) crdt.Stats                          = (*crdt.Datastore).InternalStats
)

// Methods of MerkleCRDT, which has those of Datastore too.
var (
	_ ds.Batching = (*crdt.MerkleCRDT)(nil)

	_ func(*crdt.MerkleCRDT, context.Context, crdt.Delta) (crdt.Head, error)          = (*crdt.MerkleCRDT).Publish
	_ func(*crdt.MerkleCRDT) crdt.Set                                                 = (*crdt.MerkleCRDT).Set
	_ func(*crdt.MerkleCRDT) crdt.Heads                                               = (*crdt.MerkleCRDT).Heads
	_ func(*crdt.MerkleCRDT, context.Context, cid.Cid) (bool, error)                  = (*crdt.MerkleCRDT).IsProcessed
	_ func(*crdt.MerkleCRDT, context.Context, []cid.Cid, func(ipld.Node) error) error = (*crdt.MerkleCRDT).Traverse
	_ func(*crdt.MerkleCRDT, context.Context, string) (int, error)                    = (*crdt.MerkleCRDT).PurgeDAG
	_ func(*crdt.MerkleCRDT, context.Context) error                                   = (*crdt.MerkleCRDT).Repair
	_ func(*crdt.MerkleCRDT, context.Context) crdt.Stats                              = (*crdt.MerkleCRDT).InternalStats
	_ func(*crdt.MerkleCRDT, context.Context, io.Writer) error                        = (*crdt.MerkleCRDT).DotDAG
)

// Methods of the rest.
var (
	_ crdt.Broadcaster = (*crdt.PubSubBroadcaster)(nil)

	_ func(*crdt.PubSubBroadcaster, context.Context, []byte) error   = (*crdt.PubSubBroadcaster).Broadcast
	_ func(*crdt.PubSubBroadcaster, context.Context) ([]byte, error) = (*crdt.PubSubBroadcaster).Next

	_ func(crdt.Head) string = crdt.Head.String

	_ = isComparable[crdt.PubSubBroadcaster]
)

func isComparable[T comparable]() {}

// The interfaces as the contract has them. Each is assigned in both
// directions, so that no method may be missing and none may be added: programs
// call them, and programs implement them.
type (
	broadcaster interface {
		Broadcast(context.Context, []byte) error
		Next(context.Context) ([]byte, error)
	}
	sessionDAGService interface {
		ipld.DAGService
		Session(context.Context) ipld.NodeGetter
	}
	delta interface {
		GetElements() ([]*pb.Element, error)
		GetTombstones() ([]*pb.Element, error)
		GetPriority() uint64
		SetElements([]*pb.Element)
		SetTombstones([]*pb.Element)
		SetPriority(uint64)
		Size() int
		GetDagName() string
		SetDagName(string)
		IsEmpty() bool
		Unmarshal([]byte) error
		Marshal() ([]byte, error)
	}
	set interface {
		Add(ctx context.Context, key string, value []byte) (crdt.Delta, error)
		Rmv(ctx context.Context, key string) (crdt.Delta, error)
		Merge(ctx context.Context, d crdt.Delta, id string) error
		Element(ctx context.Context, key string) ([]byte, error)
		Elements(context.Context, query.Query) (query.Results, error)
		InSet(ctx context.Context, key string) (bool, error)
	}
	heads interface {
		Get(context.Context, cid.Cid) (crdt.Head, bool)
		Len(context.Context) (int, error)
		LenDAG(ctx context.Context, dagName string) (int, error)
		Replace(ctx context.Context, old, new crdt.Head) error
		Add(context.Context, crdt.Head) error
		List(context.Context) ([]crdt.Head, uint64, error)
		ListDAG(ctx context.Context, dagName string) ([]crdt.Head, uint64, error)
	}
)

var (
	_ broadcaster            = crdt.Broadcaster(nil)
	_ crdt.Broadcaster       = broadcaster(nil)
	_ sessionDAGService      = crdt.SessionDAGService(nil)
	_ crdt.SessionDAGService = sessionDAGService(nil)
	_ delta                  = crdt.Delta(nil)
	_ crdt.Delta             = delta(nil)
	_ set                    = crdt.Set(nil)
	_ crdt.Set               = set(nil)
	_ heads                  = crdt.Heads(nil)
	_ crdt.Heads             = heads(nil)
)

// The fields of structs. The values have types, so that a field of another
// type does not take them.
var (
	_ = crdt.Options{
		Logger:              logging.StandardLogger(nil),
		RebroadcastInterval: time.Duration(0),
		PutHook:             func(ds.Key, []byte) {},
		DeleteHook:          func(ds.Key) {},
		NumWorkers:          int(0),
		DAGSyncerTimeout:    time.Duration(0),
		MaxBatchDeltaSize:   int(0),
		RepairInterval:      time.Duration(0),
		MultiHeadProcessing: bool(false),
		BroadcastBatchDelay: time.Duration(0),
	}
	_ logging.StandardLogger = crdt.Options{}.Logger

	_ = crdt.Stats{Heads: []crdt.Head(nil), MaxHeight: uint64(0), QueuedJobs: int(0)}
	_ = crdt.Head{HeadValue: crdt.HeadValue{}, Cid: cid.Cid{}}
	_ = crdt.HeadValue{Height: uint64(0), DAGName: string("")}

	_ uint64 = crdt.Head{}.Height // promoted
	_ string = crdt.Head{}.DAGName

	_ = crdt.MerkleCRDT{Datastore: (*crdt.Datastore)(nil)}
	_ = crdt.MerkleCRDTOptions{DeltaFactory: func() crdt.Delta { return nil }, Namespaces: crdt.InternalNamespaces{}}
	_ = crdt.InternalNamespaces{
		Heads:           string(""),
		DAGHeads:        string(""),
		Set:             string(""),
		ProcessedBlocks: string(""),
		DirtyBitKey:     string(""),
		BadShutdownKey:  string(""),
		VersionKey:      string(""),
	}

	_ = &pb.CRDTBroadcast{Heads: []*pb.Head(nil)}
	_ = &pb.Head{Cid: []byte(nil), DagName: string("")}
	_ = &pb.Delta{Elements: []*pb.Element(nil), Tombstones: []*pb.Element(nil), Priority: uint64(0), DagName: string("")}
	_ = &pb.Element{Key: string(""), Id: string(""), Value: []byte(nil)}
)

func TestDefaultOptionsAreThoseOfTheContract(t *testing.T) {
	o := crdt.DefaultOptions()
	for name, is := range map[string]bool{
		"Logger":              o.Logger != nil,
		"RebroadcastInterval": o.RebroadcastInterval == time.Minute,
		"PutHook":             o.PutHook == nil,
		"DeleteHook":          o.DeleteHook == nil,
		"NumWorkers":          o.NumWorkers == 5,
		"DAGSyncerTimeout":    o.DAGSyncerTimeout == 5*time.Minute,
		"MaxBatchDeltaSize":   o.MaxBatchDeltaSize == 1<<20,
		"RepairInterval":      o.RepairInterval == time.Hour,
		"MultiHeadProcessing": !o.MultiHeadProcessing,
		"BroadcastBatchDelay": o.BroadcastBatchDelay == 0,
	} {
		if !is {
			t.Errorf("the default of %s is another: %+v", name, o)
		}
	}
}

func TestDefaultOptionsAreTheCallersOwn(t *testing.T) {
	crdt.DefaultOptions().NumWorkers = 77
	if n := crdt.DefaultOptions().NumWorkers; n != 5 {
		t.Errorf("a change of one copy showed in the next: %d", n)
	}
}
