package main

import (
	"fmt"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// scenario is one thing to measure.
type scenario struct {
	name  string
	about string
	raw   bool // only the calls of a datastore are made, so a bare store will do
	run   func(*env) error
}

// scenarios are all there are, in the order of the tables.
var scenarios = []scenario{
	{"put", "Puts of new keys, one after the other", true, writes(20_000, putAll)},
	{"put64", "Puts of new keys by 64 goroutines", true, writes(20_000, putConcurrently)},
	{"batch1000", "batches of 1,000 new keys", true, writes(200_000, putBatches(1000))},
	{"batch30000", "one batch of 30,000 new keys", true, writes(30_000, putBatches(30_000))},
	{"get", "Gets of random keys among 20,000", true, randomGets},
	{"overwrite-delete", "the Delete of a key that was Put 400 times", false, deleteOverwritten},
	{"rounds", "300 times: Put ten keys and Delete them again", true, rounds},
	{"delete-parent", "the Delete of a key with 50,000 keys below it", false, deleteParent},
	{"query", "Queries over 200,000 keys", true, queries},
	{"join1000", "a new replica gets 1,000 blocks of one key; each request takes 5 ms", false, join(1000, 1)},
	{"join100x1000", "a new replica gets 100 blocks of 1,000 keys; each request takes 5 ms", false, join(100, 1000)},
	{"puts-beside-join", "Puts and Gets beside a join of 20,000 blocks of one key", false, besideJoin(20_000, 1)},
	{"puts-beside-join1000", "Puts and Gets beside a join of 300 blocks of 1,000 keys", false, besideJoin(300, 1000)},
	{"live100", "batches of 100 keys until another replica in the process has all", false, stream(inProcess, 20_000)},
	{"live-latency", "a Put until another replica in the process has it", false, latency(inProcess, 500)},
	{"five", "five replicas Put and Delete the same 50 keys until they agree", false, five},
	{"many2", "2 replicas that put 200 keys a second each", false, many(2)},
	{"many5", "5 such", false, many(5)},
	{"many10", "10 such", false, many(10)},
	{"many20", "20 such", false, many(20)},
	{"many50", "50 such", false, many(50)},
	{"libp2p-live100", "live100 over two libp2p hosts with GossipSub and bitswap", false, stream(overLibp2p, 10_000)},
	{"libp2p-latency", "live-latency over two libp2p hosts", false, latency(overLibp2p, 200)},
	{"libp2p-join", "a new libp2p host gets 2,000 blocks of one key", false, libp2pJoin},
	{"libp2p-newcomer", "a new libp2p host gets 100 keys while nobody writes", false, libp2pNewcomer},
	{"idle", "1,000 replicas with a key each, on one store, that do nothing", false, idle(1000)},
	{"reopen", "New and a Get on a store of 1,000 blocks", false, reopen},
	{"repair", "Repair of 1,000 blocks", false, repair},
	{"disk", "bytes on disk and bytes allocated for a key, in batches of 1,000", true, disk(100_000, putBatches(1000))},
	{"disk-puts", "the same, for Puts one after the other", true, disk(50_000, putAll)},
}

func find(name string) (scenario, error) {
	for _, s := range scenarios {
		if s.name == name {
			return s, nil
		}
	}
	return scenario{}, fmt.Errorf("there is no scenario %q; -list shows all", name)
}

func descriptions() []result.Scenario {
	var all []result.Scenario
	for _, s := range scenarios {
		all = append(all, result.Scenario{Name: s.name, About: s.about, Raw: s.raw})
	}
	return all
}
