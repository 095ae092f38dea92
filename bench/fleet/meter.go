package main

import (
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"golang.org/x/sys/unix"
)

// A meter compares with how things were when it was begun.
type meter struct {
	*fleet
	before    traffic
	cpu, busy time.Duration
}

func (f *fleet) begin() *meter {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	return &meter{fleet: f, before: f.net.traffic, cpu: processTime(), busy: f.net.busy}
}

func (m *meter) traffic() traffic {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	return m.net.traffic.minus(m.before)
}

// replicasTime is the processor time of the replicas, with their stores and DAG services, and of
// what comes with them: collecting garbage, switching goroutines.
func (m *meter) replicasTime() time.Duration {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	return processTime() - m.cpu - (m.net.busy - m.busy)
}

func processTime() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }
func threadTime() time.Duration  { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var at unix.Timespec
	_ = unix.ClockGettime(id, &at) // fails only for a clock that is not there
	return time.Duration(at.Nano())
}

// weigh returns how many blocks there are, and their links and bytes.
func (p *pool) weigh() (count, links, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.blocks {
		node, _ := merkledag.DecodeProtobuf(b.RawData()) // a replica made it
		count, links, bytes = count+1, links+len(node.Links()), bytes+len(b.RawData())
	}
	return count, links, bytes
}
