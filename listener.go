package crdt

import (
	"context"
	"errors"
	"fmt"

	cid "github.com/ipfs/go-cid"
	"github.com/ipfs/go-ds-crdt/pb"
	logging "github.com/ipfs/go-log/v2"
	"google.golang.org/protobuf/proto"
)

// maxMessage is the largest message that is looked at, in bytes.
const maxMessage = 4 << 20

// A listener receives announcements and has unknown blocks fetched.
type listener struct {
	ctx       context.Context
	bcast     Broadcaster
	log       logging.StandardLogger
	store     *rowStore
	frontier  *frontier
	blocks    *blockStore
	fetcher   *fetcher
	announcer *announcer
}

// run listens until the context or the broadcasts end.
func (l *listener) run() {
	for {
		data, err := l.bcast.Next(l.ctx)
		switch {
		case l.ctx.Err() != nil:
			return
		case errors.Is(err, ErrNoMoreBroadcast):
			l.log.Infof("no more broadcasts: this replica hears no other from now on")
			return
		case err != nil:
			l.log.Errorf("receiving a broadcast: %s", err)
			sleep(l.ctx, retryPause)
		default:
			l.receive(data)
		}
	}
}

// receive handles one message, which may be anything.
func (l *listener) receive(data []byte) {
	heads, err := decodeBroadcast(data)
	if err != nil {
		l.log.Debugf("ignoring a broadcast of %d bytes: %s", len(data), err)
	}
	var unknown []announced
	for _, h := range heads {
		known, err := l.store.isKnown(l.ctx, h.id)
		hidden := false
		if err == nil && !known {
			hidden, err = l.store.hiddenBy(l.ctx, l.frontier.checkpoints(), h.id)
		}
		l.announcer.sawHead(h.id)
		switch {
		case l.ctx.Err() != nil: // it is being closed
			return
		case err != nil:
			l.log.Errorf("looking up block %s: %s", h.id.Cid(), err)
		case known:
		case hidden: // nobody could tell later that it is here
		default:
			if len(h.raw) > 0 {
				h.arrival = l.fetcher.open(h.id, h.raw)
			}
			unknown = append(unknown, h)
		}
	}
	if len(unknown) > 0 {
		l.fetcher.announce(unknown)
		if err := l.passOver(unknown); err != nil && l.ctx.Err() == nil {
			l.log.Errorf("looking for announced blocks in covers: %s", err)
		}
	}
}

func (l *listener) passOver(heads []announced) error {
	ids := make([]blockID, len(heads))
	for i, h := range heads {
		ids[i] = h.id
	}
	return l.fetcher.passOver(l.ctx, l.store, l.frontier.checkpoints(), ids)
}

// An announced block may come with its announcement.
type announced struct {
	link
	raw     []byte
	arrival *arrival // of raw, if that has been opened
}

// decodeBroadcast returns the blocks that a message announces: a CRDTBroadcast,
// or, from old peers, the bytes of one CID. Heads that cannot be are left out,
// and so are those beyond a limit, which are not even looked at.
func decodeBroadcast(data []byte) ([]announced, error) {
	if len(data) > maxMessage {
		return nil, fmt.Errorf("more than %d bytes", maxMessage)
	}
	l := announcedList{seen: make(map[blockID]bool)}
	err := eachField(data, headsField, l.addHead)
	switch {
	case err == nil && !isCIDv0(data), errors.Is(err, errEnough):
		return l.list, l.err
	}
	c, castErr := cid.Cast(data)
	if castErr != nil {
		return nil, err
	}
	only, err := linkOf(c)
	if err != nil {
		return nil, err
	}
	return []announced{{link: only}}, nil
}

// isCIDv0 reports whether a message is one CID of version 0. It also reads as a
// message with one field, which is none of ours.
func isCIDv0(data []byte) bool { _, ok := blockIDIn(data); return ok }

// headsField is the number of CRDTBroadcast.Heads.
const headsField = 1

var errEnough = errors.New("crdt: more heads than a message may have")

// An announcedList is what a message announces.
type announcedList struct {
	list   []announced
	seen   map[blockID]bool
	looked int
	err    error // of the last head that was left out
}

func (l *announcedList) addHead(msg []byte) error {
	if l.looked++; l.looked > maxHeadsPerMessage {
		return errEnough
	}
	var h pb.Head
	var to link
	err := proto.Unmarshal(msg, &h)
	if err == nil {
		to, err = linkFromBytes(h.GetCid())
	}
	if err != nil {
		l.err = err
		return nil
	}
	if !l.seen[to.id] {
		l.seen[to.id] = true
		l.list = append(l.list, announced{link: to, raw: h.GetBlock()})
	}
	return nil
}
