package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// watcher is an open watch. One goroutine fills the queue from a gRPC stream of
// its own, Next empties it.
//
// The stream is used directly because the client's Watcher reads ahead without
// a bound. Here nobody reads while the queue is full: HTTP/2 flow control then
// stops the server, which keeps no events for a watcher that lags but reads
// them from its history later. So a slow reader costs the queue and one flow
// control window, and loses something only to a compaction.
type watcher struct {
	s      *Store
	o      backend.WatchOptions
	span   span // for a single key: to is nil
	prefix string
	scope  backend.Scope
	epoch  string
	probe  string

	ctx   context.Context // of the stream: the caller's, Close, the store's Close
	end   context.CancelFunc
	ended chan struct{} // closed when the goroutine is gone

	q *eventQueue

	turn   sync.Mutex // held while events are delivered; guards these:
	pos    position
	whole  bool                // no event at pos.rev is missing
	hidden map[string]struct{} // see hide

	mu    sync.Mutex // guards these:
	live  *stream    // where requests for progress go
	want  int64      // the revision that a Progress event has to reach; 0: none is asked for
	prods bool       // a helper is asking the server for progress

	helpers sync.WaitGroup
	contact atomic.Int64
	gone    atomic.Int64 // disconnected since, in Unix ns; 0: connected
}

// Watch implements backend.Store. It refuses servers on which Sync cannot be
// right (a store asks for the version once). It takes a linearizable read, which fixes
// where the watch begins, and then (but for Snapshot) the reply to the request
// to watch.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	w := &watcher{
		s: s, o: o, prefix: prefix,
		span:  s.span(prefix),
		scope: backend.ScopeOf(s.space.Root(), prefix, o.Key),
		probe: s.probeKey(prefix),
		ended: make(chan struct{}),
		q:     newEventQueue(s.o.WatchBuffer),
	}
	if o.Key {
		w.probe = s.space.Name(prefix)
		w.span = span{from: []byte(w.probe)}
	}
	var from position
	var epoch string
	if o.Resume != "" {
		var err error
		if from, epoch, err = parseToken(o.Resume, w.scope); err != nil {
			return nil, err
		}
	}
	// A watch that cannot Sync is none; package kv relies on it.
	if err := s.ordersProgress(ctx); err != nil {
		return nil, err
	}
	now, err := s.header(ctx, w.probe)
	if err != nil {
		return nil, err
	}
	w.epoch = epochOf(now.ClusterId)
	w.pos, w.whole = position{rev: now.Revision, term: now.RaftTerm}, true
	if o.Resume != "" {
		if epoch != w.epoch {
			return nil, fmt.Errorf("%w: the resume token is of another cluster", backend.ErrHistoryLost)
		}
		if err := w.reaches(ctx, from, now); err != nil {
			return nil, err
		}
		w.pos, w.whole = from, from.seen == 0
	}
	w.ctx, w.end = context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, w.end)
	var first *stream
	if !o.Snapshot {
		if first, err = w.open(); err != nil {
			stop()
			w.end()
			return nil, err
		}
	}
	if !s.spawn(func() { defer stop(); w.run(first) }) {
		w.end()
		return nil, backend.ErrClosed
	}
	s.reaps()
	return w, nil
}

// reaches reports ErrHistoryLost if the store no longer has what follows p.
func (w *watcher) reaches(ctx context.Context, p position, now *pb.ResponseHeader) error {
	if p.rev > now.Revision || p.term > now.RaftTerm {
		return fmt.Errorf("%w: the store is older than the resume point", backend.ErrHistoryLost)
	}
	if p.start() > now.Revision {
		return nil
	}
	_, err := call(ctx, w.s, reads, w.s.kv.Range, &pb.RangeRequest{Key: []byte(w.probe), Revision: p.start(), KeysOnly: true})
	return err
}

// run fills the queue until the watch ends.
func (w *watcher) run(live *stream) {
	defer close(w.ended)
	defer w.end()
	if w.o.Snapshot {
		if err := w.snapshot(); err != nil {
			w.q.fail(w.verdict(err))
			return
		}
	}
	var wait backoff.Backoff
	for {
		var err error
		if live == nil {
			live, err = w.open()
		}
		if err == nil {
			heard := w.contact.Load()
			err = w.follow(live)
			live = nil
			if w.contact.Load() != heard {
				wait.Reset()
			}
		}
		if final(err) || w.ctx.Err() != nil {
			w.q.fail(w.verdict(err))
			return
		}
		w.gone.CompareAndSwap(0, time.Now().UnixNano())
		wait.Wait(w.ctx)
	}
}

// final reports whether err ends a watch: what a new attempt does not mend.
func final(err error) bool {
	return errors.Is(err, backend.ErrHistoryLost) || errors.Is(err, backend.ErrPermission) ||
		errors.Is(err, backend.ErrInvalid) || errors.Is(err, backend.ErrClosed)
}

// verdict is the error that Next returns from now on.
func (w *watcher) verdict(err error) error {
	if final(err) || w.ctx.Err() == nil {
		return err
	}
	if w.s.life.Err() != nil {
		return backend.ErrClosed
	}
	if err := backend.ContextError(w.ctx); err != nil {
		return err
	}
	return err
}

// mark is an event without a key: the stream is complete up to the position.
func (w *watcher) mark(kind backend.Kind) backend.Event {
	return backend.Event{
		Kind:  kind,
		Entry: backend.Entry{Revision: backend.Revision(w.pos.rev)},
		Token: w.pos.token(w.epoch, w.scope),
	}
}

// follow reads responses until the stream breaks.
func (w *watcher) follow(live *stream) error {
	defer live.close()
	w.setLive(live)
	defer w.setLive(nil)
	verify := w.pos.seen // events of the position's revision to come again
	for {
		resp, err := live.recv()
		if err != nil {
			return err
		}
		w.heard()
		if verify, err = w.take(resp, verify); err != nil {
			return err
		}
	}
}

// take delivers what is in one response. verify is how many events have to
// come again before anything is new.
func (w *watcher) take(resp *pb.WatchResponse, verify int) (int, error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	switch {
	case resp.CompactRevision > 0:
		return verify, errCompacted
	case resp.Canceled:
		return verify, w.refusal(resp)
	case len(resp.Events) == 0:
		if err := w.progress(resp.Header.GetRevision(), verify > 0); err != nil {
			return verify, err
		}
		w.answer()
		return verify, nil
	}
	for _, ev := range resp.Events {
		rev := ev.Kv.ModRevision
		switch {
		case verify > 0 && rev == w.pos.rev:
			if verify--; verify == 0 && digest(ev) != w.pos.sum {
				return verify, errOtherHistory
			}
			continue
		case verify > 0 && rev > w.pos.rev:
			return verify, errOtherHistory
		case rev < w.pos.start():
			continue // a member that lagged has sent old events again
		}
		w.pos, w.whole = w.pos.next(ev), false
		if err := w.deliver(ev); err != nil {
			return verify, err
		}
	}
	// The events of one revision come in one response, or in its fragments.
	w.whole = !resp.Fragment && verify == 0
	w.answer()
	return verify, nil
}

var errCompacted = fmt.Errorf("%w: %w", backend.ErrHistoryLost, rpctypes.ErrCompacted)

var errOtherHistory = fmt.Errorf("%w: the store was restored, or is another one", backend.ErrHistoryLost)

// deliver queues one event.
func (w *watcher) deliver(ev *mvccpb.Event) error {
	kv := ev.Kv
	key, ok := w.s.key(kv.Key)
	if !ok {
		return nil
	}
	out := backend.Event{Kind: backend.Updated, Entry: entry(key, kv), Token: w.pos.token(w.epoch, w.scope)}
	switch {
	case ev.Type == mvccpb.DELETE:
		out.Kind = backend.Deleted
		out.Entry = backend.Entry{Key: key, Revision: backend.Revision(kv.ModRevision)}
	case kv.CreateRevision == kv.ModRevision:
		out.Kind = backend.Created
	}
	if _, ok := w.hidden[key]; ok {
		delete(w.hidden, key)
		if out.Kind == backend.Deleted {
			return nil
		}
		out.Kind = backend.Created
	} else if w.o.Prev && ev.PrevKv != nil {
		prev := entry(key, ev.PrevKv)
		out.Prev = &prev
	}
	return w.q.push(w.ctx, out)
}

func (w *watcher) heard() {
	w.contact.Store(time.Now().UnixNano())
	w.gone.Store(0)
}

// Next implements backend.Watch.
func (w *watcher) Next(ctx context.Context) (backend.Event, error) {
	return w.q.pop(ctx)
}

// Health implements backend.Watch.
func (w *watcher) Health() backend.Health {
	h := backend.Health{LastContact: time.Unix(0, w.contact.Load())}
	if since := w.gone.Load(); since != 0 {
		h.DisconnectedSince = time.Unix(0, since)
	}
	return h
}

// Close implements backend.Watch.
func (w *watcher) Close() error {
	w.q.close()
	w.end()
	w.mu.Lock()   // from here on Sync starts no helper
	w.mu.Unlock() //nolint:staticcheck // the pair is a barrier
	w.helpers.Wait()
	<-w.ended
	return nil
}
