package crash

import (
	"flag"
	"log"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var (
	kills = flag.Int("kills", 15, "how often to kill a child in each test, on each store")
	seed  = flag.Uint64("seed", 1, "of all that is random, but for the timing")
)

// TestMain is also where a child process begins.
func TestMain(m *testing.M) {
	if config := os.Getenv(childVariable); config != "" {
		log.Fatal(runChild(config))
	}
	goleak.VerifyTestMain(m, notOurs()...)
}

// notOurs are goroutines that others leave. Badger that refuses to open, as
// TestBadgerOpensAtTheSecondTry has it do, does not end what it has begun. One that
// opened and was not closed has other goroutines too, and is found.
func notOurs() (ignored []goleak.Option) {
	for _, function := range []string{
		"github.com/dgraph-io/badger/v4.(*DB).monitorCache",
		"github.com/dgraph-io/badger/v4.(*DB).updateSize",
		"github.com/dgraph-io/badger/v4/y.(*WaterMark).process",
		"github.com/dgraph-io/ristretto/v2.(*Cache[...]).processItems",
		"github.com/dgraph-io/ristretto/v2.(*defaultPolicy[...]).processItems",
		"github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators",
		// go-log's old version, which a dependency imports, starts it for ever when it is loaded.
		"github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine",
	} {
		ignored = append(ignored, goleak.IgnoreTopFunction(function))
	}
	return ignored
}
