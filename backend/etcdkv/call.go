package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/polykv/kv/backend"
)

// effect is what a request may have changed when its reply is lost.
type effect uint8

const (
	reads  effect = iota // nothing that matters: a lost reply is ErrUnavailable
	writes               // keys: a lost reply is ErrUncertain
)

// patient marks a request that may take longer than any dial timeout.
const patient effect = 1 << 7

type reply interface{ GetHeader() *pb.ResponseHeader }

// kickInterval is the least time between two demands to reconnect at once.
const kickInterval = 250 * time.Millisecond

// call sends one request over the client's connection and classifies what
// comes back.
//
// It is sent once. The client's interceptor repeats a request of this kind
// only when the server refused its token, or its auth revision, before looking
// at it (clientv3, retry_interceptor.go: no repeatable policy is set here), and
// gRPC only when the server says that it has not processed it.
func call[Req any, Resp reply](
	ctx context.Context, s *Store, e effect,
	rpc func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req,
) (Resp, error) {
	var none Resp
	if err := s.usable(ctx); err != nil {
		return none, err
	}
	rctx, cancel := s.bound(ctx, e&patient == 0)
	defer cancel()
	if err := s.connected(rctx); err != nil {
		return none, s.fail(ctx, unanswered(rctx, err), false)
	}
	var to peer.Peer
	resp, err := rpc(rctx, req, grpc.Peer(&to), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32))
	if err != nil {
		// gRPC knows the peer from when the request has a stream on a
		// connection: without, nothing can have been sent.
		return none, s.fail(ctx, unanswered(rctx, err), e&writes != 0 && to.Addr != nil)
	}
	s.observe(resp.GetHeader())
	return resp, nil
}

// usable is what every call asks first.
func (s *Store) usable(ctx context.Context) error {
	if s.bad != nil {
		return s.bad
	}
	if s.life.Err() != nil {
		return backend.ErrClosed
	}
	return backend.ContextError(ctx)
}

var errNoAnswer = errors.New("no answer in time")

// bound returns a context that also ends with the store and, if ctx has no
// deadline, when an answer can no longer be expected. It has no deadline of its
// own, which gRPC would tell the server: that takes a twentieth of a read.
func (s *Store) bound(ctx context.Context, limited bool) (context.Context, func()) {
	rctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(backend.ErrClosed) })
	end := func() { stop(); cancel(nil) }
	if _, ok := ctx.Deadline(); ok || !limited {
		return rctx, end
	}
	timer := time.AfterFunc(max(s.o.DialTimeout, defaultDialTimeout), func() { cancel(errNoAnswer) })
	return rctx, func() { timer.Stop(); end() }
}

// unanswered is err, unless that is only that bound has ended ctx.
func unanswered(ctx context.Context, err error) error {
	if context.Cause(ctx) == errNoAnswer {
		return errNoAnswer
	}
	return err
}

// connected waits for a usable connection, at most for the dial timeout. gRPC
// itself would fail at once while a server restarts, and hang for 20 s while a
// dial gets no answer.
func (s *Store) connected(ctx context.Context) error {
	state := s.conn.GetState()
	if state == connectivity.Ready {
		return nil
	}
	dial, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	for {
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			if s.life.Err() != nil {
				return backend.ErrClosed // and with it the client, if it is the Store's own
			}
			return fmt.Errorf("%w: the client is closed", backend.ErrUnavailable)
		case connectivity.Idle:
			s.conn.Connect()
		case connectivity.TransientFailure:
			s.kick()
		}
		wait, stop := context.WithTimeout(dial, kickInterval)
		changed := s.conn.WaitForStateChange(wait, state)
		stop()
		if !changed && dial.Err() != nil {
			break
		}
		state = s.conn.GetState()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if state == connectivity.TransientFailure {
		return nil // the request fails at once, and says why
	}
	return fmt.Errorf("%w: no connection within %v", backend.ErrUnavailable, s.o.DialTimeout)
}

// kick makes a connection that waits out its backoff (up to two minutes) try
// again now, but not more often than kickInterval for the whole store.
func (s *Store) kick() {
	now, last := time.Now().UnixNano(), s.lastKick.Load()
	if now-last > int64(kickInterval) && s.lastKick.CompareAndSwap(last, now) {
		s.conn.ResetConnectBackoff()
	}
}

// observe learns the cluster and the raft term from a reply. A new term means
// a new leader, and that all leases were prolonged.
func (s *Store) observe(h *pb.ResponseHeader) {
	if h == nil {
		return
	}
	if s.cluster.Load() != h.ClusterId {
		s.cluster.Store(h.ClusterId)
	}
	for {
		seen := s.term.Load()
		if h.RaftTerm <= seen {
			return
		}
		if s.term.CompareAndSwap(seen, h.RaftTerm) {
			s.newTerm(h.RaftTerm)
			return
		}
	}
}

// deadlineLag is by how much the server and gRPC, which have timers of their
// own for a context's deadline, may know of it before the context does.
const deadlineLag = 50 * time.Millisecond

// fail turns the error of a request into one that matches a sentinel. sent
// says that the request was a write and may have reached the server.
func (s *Store) fail(ctx context.Context, err error, sent bool) error {
	if errors.Is(err, backend.ErrUnavailable) {
		return err
	}
	cause := rpctypes.Error(err)
	sentinel, answered := classify(err)
	if answered {
		return backend.Because(sentinel, cause)
	}
	if d, ok := ctx.Deadline(); ok && status.Code(err) == codes.DeadlineExceeded && time.Until(d) < deadlineLag {
		<-ctx.Done()
	}
	switch {
	case s.life.Err() != nil:
		sentinel, cause = backend.ErrClosed, nil
	case ctx.Err() != nil:
		sentinel, cause = backend.ContextError(ctx), nil
	}
	err = backend.Because(sentinel, cause)
	if sent {
		return backend.Because(backend.ErrUncertain, err)
	}
	return err
}

// classify names the sentinel for an error of the client's, by its type or
// code. answered says that it is the server's verdict, so that nothing was
// applied; without one the sentinel is that of a request that has no effect.
func classify(err error) (sentinel error, answered bool) {
	switch rpctypes.Error(err) {
	case rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken:
		return backend.ErrPermission, true
	case rpctypes.ErrRequestTooLarge:
		return backend.ErrTooLarge, true
	case rpctypes.ErrCompacted:
		return backend.ErrHistoryLost, true
	case rpctypes.ErrTooManyRequests, rpctypes.ErrNoSpace, rpctypes.ErrAuthOldRevision:
		return backend.ErrUnavailable, true // refused before it was applied
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return backend.ErrPermission, true
	case codes.Unimplemented:
		return errors.ErrUnsupported, true
	case codes.ResourceExhausted: // of gRPC: the message is over the receiver's limit
		return backend.ErrTooLarge, true
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange:
		return backend.ErrInvalid, true
	}
	return backend.ErrUnavailable, false
}
