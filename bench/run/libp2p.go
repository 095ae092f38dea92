package main

import "time"

// overLibp2p makes a couple of libp2p hosts, which have already sent each other
// something when it returns. They announce their heads again soon: the released module
// loses announcements that come faster than it gets the blocks, and is stuck otherwise.
func overLibp2p(e *env) (couple, error) {
	arrived := new(arrivals)
	from, err := e.openPeer(rebroadcasting(time.Second))
	if err != nil {
		return couple{}, err
	}
	to, err := e.openPeer(arrived.watch(rebroadcasting(time.Second)))
	if err != nil {
		return couple{}, err
	}
	if err := e.connect(to, from); err != nil {
		return couple{}, err
	}
	if err := from.mesh.wait(e.ctx); err != nil {
		return couple{}, err
	}
	c := couple{from.replica, to.replica, makePairs("/warm-up", 1), arrived}
	_, err = e.send(c, c.before)
	return c, err
}

// libp2pJoin measures how a new peer gets a long history.
func libp2pJoin(e *env) error {
	pairs := makePairs("/bench", e.size(2000))
	n, err := e.openNewcomer(pairs, 1, time.Second, 0)
	if err != nil {
		return err
	}
	took, err := n.join(e)
	if err != nil {
		return err
	}
	e.rate("rate", len(pairs), took)
	return verifyArrived(e.ctx, n.to.replica, pairs)
}

// libp2pNewcomer measures how a new peer gets to know what there is when nobody writes,
// long before it is announced again.
func libp2pNewcomer(e *env) error {
	interval := 20 * time.Second
	if e.quick {
		interval = time.Second
	}
	pairs := makePairs("/bench", 100)
	n, err := e.openNewcomer(pairs, 100, interval, time.Second)
	if err != nil {
		return err
	}
	took, err := n.join(e)
	if err != nil {
		return err
	}
	e.millis("since the connection", took)
	e.millis("since the mesh", n.sinceMesh(took))
	return verifyArrived(e.ctx, n.to.replica, pairs)
}

// newcomer is a peer that is about to connect to one that holds pairs.
type newcomer struct {
	from, to  *peer
	arrived   *arrivals
	connected time.Time
}

// openNewcomer opens the second peer some time after the first has written its pairs.
func (e *env) openNewcomer(pairs []pair, keysPerBlock int, interval, after time.Duration) (*newcomer, error) {
	n := &newcomer{arrived: new(arrivals)}
	var err error
	if n.from, err = e.openPeer(rebroadcasting(interval)); err != nil {
		return nil, err
	}
	if err := e.writeBlocks(n.from.replica, pairs, keysPerBlock); err != nil {
		return nil, err
	}
	time.Sleep(after)
	n.to, err = e.openPeer(n.arrived.watch(rebroadcasting(interval)))
	n.arrived.expect(pairs)
	return n, err
}

// join connects the newcomer and waits until it has all pairs.
func (n *newcomer) join(e *env) (time.Duration, error) {
	return timed(func() error {
		n.connected = time.Now()
		if err := e.connect(n.to, n.from); err != nil {
			return err
		}
		return n.arrived.wait(e.ctx, n.to.replica)
	})
}

// sinceMesh is the part of the time after one of the peers took the other into its
// mesh, whichever was first.
func (n *newcomer) sinceMesh(took time.Duration) time.Duration {
	first := took // without a mesh yet: it took no time since
	for _, p := range []*peer{n.from, n.to} {
		select {
		case <-p.mesh.formed:
			first = min(first, p.mesh.at.Sub(n.connected))
		default:
		}
	}
	return took - first
}
