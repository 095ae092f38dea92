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

// Checkpoints that others have made at about the same time can be checked only as long as the
// blocks below them are here.
func TestDropWaitsUntilOthersAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newTestNet()
		a := net.newReplica(t, func(o *Options) { o.KeepHistory, o.RebroadcastInterval = 10*time.Second, time.Minute })
		replicas := []*replica{a, net.newReplica(t), net.newReplica(t)}
		a.overwrite(0, 20)
		converge(t, replicas...)
		for _, r := range replicas {
			r.node.away(true)
		}
		var made []Head
		for i, r := range replicas {
			r.overwrite(20*i, 20*i+20)
			made = append(made, r.checkpoint())
		}
		net.mu.Lock()
		net.delay = time.Second
		net.mu.Unlock()
		for _, r := range replicas {
			r.node.away(false)
		}
		for _, r := range replicas {
			r.announcer.announceHeads(time.Now())
		}
		time.Sleep(3 * time.Minute)
		for _, head := range made {
			if state := a.checkpointState(head.Cid); !state.held() {
				t.Errorf("%s is in state %d", head.Cid, state)
			}
		}
		if n := a.countBlocks(); n > 60 {
			t.Errorf("%d blocks are left", n)
		}
	})
}
