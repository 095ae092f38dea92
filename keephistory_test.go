package crdt

import (
	"testing"
	"testing/synctest"
	"time"
)

// What has been covered for Options.KeepHistory goes by itself, also after a restart.
func TestHistoryIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestNet().newReplica(t, func(o *Options) { o.KeepHistory = time.Hour })
		r.overwrite(0, 10)
		c := r.checkpoint()
		blocks := r.countBlocks()
		time.Sleep(time.Hour - time.Second)
		synctest.Wait()
		if n := r.countBlocks(); n != blocks {
			t.Errorf("%d of %d blocks are left before their time", n, blocks)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.checkDropped(c.Cid)

		r.overwrite(10, 20)
		c = r.checkpoint()
		time.Sleep(time.Minute)
		r.restart()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.checkDropped(c.Cid)
	})
}

// countBlocks returns how much is in the DAG service of a replica.
func (r *replica) countBlocks() int {
	r.node.net.mu.Lock()
	defer r.node.net.mu.Unlock()
	return len(r.node.blocks)
}
