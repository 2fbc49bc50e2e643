package rediskv

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Handing a request to a worker and back costs more than the request, where a server is near: the caller's processor goes
// to sleep and has to be woken. A request that changes nothing is therefore first made on the caller's own goroutine, with
// a deadline so short that the end of a context is noticed in time all the same. If the server takes longer the request is
// made again, by a worker, and for a while all are: a timeout costs a connection. Requests that write are never made so,
// since they must not be made twice.

const (
	// quickTimeout leaves half of the 100 ms that a call may take after its context has ended.
	quickTimeout = 50 * time.Millisecond
	// quickPause is how long no request is made quickly after one that took too long.
	quickPause = 5 * time.Second
)

// quick says whether requests are made quickly.
type quick struct {
	possible bool
	not      atomic.Int64 // before this time, in Unix ns
}

// honoursDeadlines reports whether client applies a context's deadline to reading a reply, which is an option of
// go-redis that is off by default.
func honoursDeadlines(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case *redis.Client:
		return c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		return c.Options().ContextTimeoutEnabled
	}
	return false
}

func (q *quick) now() bool { return q.possible && time.Now().UnixNano() >= q.not.Load() }

// sendQuick is send for a request that may be repeated.
func (s *Store) sendQuick(ctx context.Context, w *wire, args []any) (any, bool, error) {
	if s.direct() || ctx.Done() == nil || ctx.Err() != nil || !s.quick.now() || !s.enter() {
		return s.send(ctx, s.client, w, args)
	}
	reply, sent, err := s.process(ctx, s.client, w, args, quickTimeout)
	s.calls.Done()
	var timeout net.Error
	if err == nil || ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() {
		return reply, sent, err
	}
	s.quick.not.Store(time.Now().Add(quickPause).UnixNano())
	w.state.Store(waiting)
	return s.send(ctx, s.client, w, args)
}
