package crdt

import (
	"context"
	"time"

	ipld "github.com/ipfs/go-ipld-format"
)

// sessionPatience is how long a block is waited for in a session, before it is
// asked for outside it, and how long a session may be silent.
const sessionPatience = 5 * time.Second

// A session gets the blocks of one fetchGroup. It remembers who had some, and may
// end up asking nobody, when peers that were slow for a while have been crossed
// off: then the group needs another. It is guarded by fetcher.mu.
//
// A group has one as long as it is hopeful: sessions cost the DAG service much
// more than requests, and any announcement makes a group.
type session struct {
	from  ipld.NodeGetter
	end   context.CancelFunc
	users int       // requests in flight
	heard time.Time // when the last block came
	stale bool      // the group has another or none: it ends with its last request
}

// enterLocked returns the session of a group, or nil if it has none. Call leave
// with the outcome of the request.
func (f *fetcher) enterLocked(g *fetchGroup) *session {
	if g.session == nil && g.hopeful() {
		if from, end, ok := f.blocks.session(f.ctx); ok {
			g.session = &session{from: from, end: end, heard: time.Now()}
		}
	}
	if g.session != nil {
		g.session.users++
	}
	return g.session
}

func (f *fetcher) leave(g *fetchGroup, s *session, came bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.users--
	switch {
	case came:
		s.heard = time.Now()
	case g.session == s && (!g.hopeful() || time.Since(s.heard) >= sessionPatience):
		g.session, s.stale = nil, true
	}
	if s.stale && s.users == 0 {
		s.end()
	}
}

// getRaw gets the bytes of a block: in a session, if there is one, or else, and when
// that takes too long, outside.
func (f *fetcher) getRaw(ctx context.Context, l link, g *fetchGroup, s *session) ([]byte, error) {
	if s != nil {
		inside, cancel := context.WithTimeout(ctx, sessionPatience)
		defer cancel()
		raw, err := fetch(inside, s.from, l)
		f.leave(g, s, err == nil)
		if err == nil || inside.Err() == nil || ctx.Err() != nil {
			return raw, err
		}
	}
	return fetch(ctx, f.blocks.service, l)
}
