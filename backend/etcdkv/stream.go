package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/polykv/kv/backend"
)

// stream is one gRPC watch stream.
type stream struct {
	s      *Store
	ctx    context.Context // of whoever opened it
	cancel context.CancelFunc
	rpc    pb.Watch_WatchClient
	mu     sync.Mutex // one sender at a time
}

// openStream opens a watch stream on a member that has a leader, and leaves it
// (with ErrNoLeader, after which another member is tried) when it loses it.
func (s *Store) openStream(ctx context.Context) (*stream, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	rctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	if err := s.connected(rctx); err != nil {
		cancel()
		return nil, s.fail(ctx, err, false)
	}
	rpc, err := s.watch.Watch(rctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		cancel()
		return nil, s.fail(ctx, err, false)
	}
	return &stream{s: s, ctx: ctx, cancel: cancel, rpc: rpc}, nil
}

func (st *stream) send(r *pb.WatchRequest) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.rpc.Send(r)
}

func (st *stream) recv() (*pb.WatchResponse, error) {
	resp, err := st.rpc.Recv()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: the server ended the stream", backend.ErrUnavailable)
	}
	if err != nil {
		return nil, st.s.fail(st.ctx, err, false)
	}
	st.s.observe(resp.Header)
	return resp, nil
}

// close gives the stream up; the server forgets its watches.
func (st *stream) close() { st.cancel() }

// open starts a watch from the position and returns once the server has it.
func (w *watcher) open() (*stream, error) {
	st, err := w.s.openStream(w.ctx)
	if err != nil {
		return nil, err
	}
	// A server that is silent is as good as gone. Once the watch is there,
	// silence is normal, and the connection's keep-alives tell.
	watchdog := time.AfterFunc(max(w.s.o.DialTimeout, defaultDialTimeout), st.close)
	defer watchdog.Stop()
	if err := w.create(st); err != nil {
		st.close()
		return nil, err
	}
	w.heard()
	return st, nil
}

func (w *watcher) create(st *stream) error {
	err := st.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:            w.span.from,
		RangeEnd:       w.span.to,
		StartRevision:  w.pos.start(),
		PrevKv:         w.o.Prev,
		ProgressNotify: true, // moves the position of an idle watch past compactions
		Fragment:       true,
	}}})
	if err != nil && !errors.Is(err, io.EOF) { // for which recv has the reason
		return w.s.fail(w.ctx, err, false)
	}
	resp, err := st.recv()
	if err != nil {
		return err
	}
	switch {
	case resp.CompactRevision > 0:
		return errCompacted
	case resp.Canceled:
		return w.refusal(resp)
	case !resp.Created:
		return fmt.Errorf("%w: a watch began with something else than its creation", backend.ErrUnavailable)
	}
	return w.sameStore(resp.Header)
}

// sameStore finds out whether the member that answers has the history that the
// watch has seen. A revision or a term that is too low may be a member's that
// lags; a linearizable read decides.
func (w *watcher) sameStore(h *pb.ResponseHeader) error {
	if h == nil {
		return nil
	}
	if epochOf(h.ClusterId) != w.epoch {
		return errOtherHistory
	}
	if h.Revision < w.pos.rev || h.RaftTerm < w.pos.term {
		var err error
		if h, err = w.s.header(w.ctx, w.probe); err != nil {
			return err
		}
		if h.Revision < w.pos.rev || h.RaftTerm < w.pos.term {
			return errOtherHistory
		}
	}
	w.turn.Lock()
	w.pos.term = h.RaftTerm
	w.turn.Unlock()
	return nil
}

// refusal is why the server ended a watch. It says so in words only, so a read
// of the same range is asked, whose error has a code.
func (w *watcher) refusal(resp *pb.WatchResponse) error {
	_, err := call(w.ctx, w.s, reads, w.s.kv.Range, &pb.RangeRequest{
		Key: w.span.from, RangeEnd: w.span.to, Limit: 1, KeysOnly: true, Serializable: true,
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: watch canceled by the server: %s", backend.ErrUnavailable, resp.CancelReason)
}
