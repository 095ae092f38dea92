package crdt

// A bell wakes one waiting receiver, now or when it comes. It holds one ring,
// however often it was rung.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

// ring does not block.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}
