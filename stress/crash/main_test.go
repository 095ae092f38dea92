package crash

import (
	"flag"
	"log"
	"os"
	"testing"
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
	os.Exit(m.Run())
}
