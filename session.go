package crdt

import (
	"context"
	"time"

	ipld "github.com/ipfs/go-ipld-format"
)

// sessionPatience is how long a block is waited for in a session, before it is
// asked for outside it, and how long a session may be silent.
const sessionPatience = 5 * time.Second

// A session gets the blocks of one walk. It remembers who had some, and may end up
// asking nobody, when peers that were slow for a while have been crossed off: then
// the walk needs another. It is guarded by walker.mu.
type session struct {
	from  ipld.NodeGetter
	end   context.CancelFunc
	users int       // requests in flight
	heard time.Time // when the last block came
	stale bool      // replaced: it ends with its last request
}

// enterLocked returns the session of a walk, or nil when the DAG service has
// none. Call leave with the outcome of the request.
func (w *walker) enterLocked(wk *walk) *session {
	if _, ok := w.blocks.dag.(SessionDAGService); !ok {
		return nil
	}
	if wk.session == nil {
		from, end := w.blocks.session(w.ctx)
		wk.session = &session{from: from, end: end, heard: time.Now()}
	}
	wk.session.users++
	return wk.session
}

func (w *walker) leave(wk *walk, s *session, came bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.users--
	switch {
	case came:
		s.heard = time.Now()
	case wk.session == s && time.Since(s.heard) >= sessionPatience:
		wk.session, s.stale = nil, true
	}
	if s.stale && s.users == 0 {
		s.end()
	}
}

// get gets the bytes of a block: in a session, if there is one, or else, and when
// that takes too long, outside.
func (w *walker) get(ctx context.Context, l link, wk *walk, s *session) ([]byte, error) {
	if s != nil {
		inside, cancel := context.WithTimeout(ctx, sessionPatience)
		defer cancel()
		raw, err := w.blocks.fetch(inside, s.from, l)
		w.leave(wk, s, err == nil)
		if err == nil || inside.Err() == nil || ctx.Err() != nil {
			return raw, err
		}
	}
	return w.blocks.fetch(ctx, w.blocks.dag, l)
}
