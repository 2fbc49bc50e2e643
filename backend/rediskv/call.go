package rediskv

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
)

// command is a request that go-redis does not repeat by itself. Its retries after a lost connection or a timeout would
// send a script again that the server may have run.
type command struct{ *redis.Cmd }

func (command) NoRetry() bool                            { return true }
func (c command) Clone() redis.Cmder                     { return command{c.Cmd.Clone().(*redis.Cmd)} }
func newCommand(ctx context.Context, args []any) command { return command{redis.NewCmd(ctx, args...)} }

// wire is an argument of a request that knows whether it was written to the connection. go-redis honours the context
// while it waits for a connection, not while it waits for the reply, and does not tell how far a request came. So one
// argument of each request is a wire: go-redis asks for its bytes when it encodes the request, and not before.
type wire struct {
	text  string
	state atomic.Uint32
}

const (
	waiting = iota
	written
	abandoned
)

// MarshalBinary is called as the request is encoded. That of an abandoned request fails, and the request is not sent.
func (w *wire) MarshalBinary() ([]byte, error) {
	if !w.state.CompareAndSwap(waiting, written) && w.state.Load() == abandoned {
		return nil, context.Canceled
	}
	return []byte(w.text), nil
}

// String is for go-redis's hooks, which print requests.
func (w *wire) String() string { return w.text }

// abandon reports whether the request was not written, and then never will be.
func (w *wire) abandon() bool {
	return w.state.CompareAndSwap(waiting, abandoned) || w.state.Load() == abandoned
}

func (w *wire) sent() bool { return w.state.Load() == written }

// job is a request on its way to a worker.
type job struct {
	ctx    context.Context
	client redis.UniversalClient
	cmd    command
	done   chan struct{} // closed when cmd has its result
}

// send makes a request, of which w is an argument, and returns the reply. It returns as soon as ctx ends or the Store
// is closed, whatever go-redis does. A request that is not on its way within the dial timeout is given up. sent tells
// whether the server may have seen it.
//
// With a Dialer the caller's goroutine makes the request. Without, a worker does, if ctx can end. One that is left behind
// is free again with the reply or the client's read timeout, and Close waits for it.
func (s *Store) send(ctx context.Context, client redis.UniversalClient, w *wire, args []any) (reply any, sent bool, err error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, false, err
	}
	closing := s.life.Done()
	if ctx.Value(cleanup{}) != nil {
		closing = nil
		s.calls.Add(1) // Close waits for the cleanup first
	} else if !s.enter() {
		return nil, false, backend.ErrClosed
	}
	if s.direct() {
		defer s.calls.Done()
		return s.interruptible(ctx, client, w, args)
	}
	if ctx.Done() == nil {
		defer s.calls.Done() // nobody can end the call, so it needs no worker
		return s.process(ctx, client, w, args, s.opt.DialTimeout)
	}
	j := &job{ctx: ctx, client: client, cmd: newCommand(ctx, args), done: make(chan struct{})}
	select {
	case s.jobs <- j: // to a worker that is free, and has an entry of its own
		s.calls.Done()
	default:
		go s.work(j)
	}
	patience := time.NewTimer(s.opt.DialTimeout)
	defer patience.Stop()
	for {
		select {
		case <-j.done:
			if err := j.cmd.Err(); err != nil {
				return nil, w.sent(), s.unanswered(err)
			}
			return j.cmd.Val(), true, nil
		case <-ctx.Done():
			return nil, !w.abandon(), backend.ContextError(ctx)
		case <-closing:
			return nil, !w.abandon(), backend.ErrClosed
		case <-patience.C:
			if w.abandon() {
				return nil, false, fmt.Errorf("%w: no connection within %v", backend.ErrUnavailable, s.opt.DialTimeout)
			}
		}
	}
}

// maxIdleWorkers is how many workers wait for the next request. Waking one costs half of what starting one does.
const maxIdleWorkers = 8

// work runs j and then the requests that come while it is idle.
func (s *Store) work(j *job) {
	defer s.calls.Done()
	for {
		s.do(j.ctx, j.client, j.cmd)
		close(j.done)
		if s.idle.Add(1) > maxIdleWorkers {
			s.idle.Add(-1)
			return
		}
		select {
		case j = <-s.jobs:
			s.idle.Add(-1)
		case <-s.life.Done():
			return
		}
	}
}

// do makes a request. On Redis Cluster a server that does not answer may have been replaced: go-redis asks for the new one
// as part of its retries, and otherwise much later.
func (s *Store) do(ctx context.Context, client redis.UniversalClient, cmd command) {
	err := client.Process(ctx, cmd) // it is in cmd too
	var answer redis.Error
	if err != nil && s.cluster != nil && !errors.As(err, &answer) {
		s.cluster.ReloadState(context.WithoutCancel(ctx))
	}
}

// direct reports whether requests can be interrupted.
func (s *Store) direct() bool { return s.opt.Dialer != nil && !s.unfit.Load() }

// interruptible makes a request on the caller's goroutine, and interrupts it when ctx ends or, as long as it is not on its
// way, the dial timeout.
func (s *Store) interruptible(ctx context.Context, client redis.UniversalClient, w *wire, args []any) (any, bool, error) {
	bounded, cancel := context.WithTimeout(ctx, s.opt.DialTimeout)
	defer cancel()
	f := s.opt.Dialer.begin(s, cancel, ctx.Value(cleanup{}) != nil)
	defer s.opt.Dialer.end(f)
	defer context.AfterFunc(bounded, func() {
		if w.abandon() || ctx.Err() != nil {
			f.interrupt()
		}
	})()
	c := call{bounded, f.Deadline()}
	cmd := newCommand(c, args)
	s.do(c, client, cmd)
	err := cmd.Err()
	switch {
	case err == nil:
		if !f.carried() {
			s.unfit.Store(true)
		}
		return cmd.Val(), true, nil
	case ctx.Err() != nil:
	case f.stopped() && s.life.Err() != nil:
		err = backend.ErrClosed
	case !w.sent() && bounded.Err() != nil:
		err = fmt.Errorf("%w: no connection within %v", backend.ErrUnavailable, s.opt.DialTimeout)
	}
	return nil, w.sent(), err
}

// process makes a request on the caller's goroutine. Getting a connection takes d at the most, and the reply as well if the
// client honours deadlines.
func (s *Store) process(ctx context.Context, client redis.UniversalClient, w *wire, args []any, d time.Duration) (any, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	cmd := newCommand(ctx, args)
	s.do(ctx, client, cmd)
	if err := cmd.Err(); err != nil {
		return nil, w.sent(), s.unanswered(err)
	}
	return cmd.Val(), true, nil
}

// unanswered looks for the reason why a request failed that no server answered: the Store may have been closed, and with it
// the connections of a client of its own.
func (s *Store) unanswered(err error) error {
	var answer redis.Error
	if errors.As(err, &answer) {
		return err
	}
	if s.life.Err() != nil {
		return backend.Because(backend.ErrClosed, err)
	}
	if s.cluster != nil {
		// go-redis looks for the server that has the keys now as it repeats a request, which it may not, and once a minute.
		s.cluster.ReloadState(s.life)
	}
	return err
}

// enter notes a piece of work that Close has to wait for: s.calls.Done ends it.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.calls.Add(1)
	return true
}

// cleanup marks the context of work that Close lets finish.
type cleanup struct{}

// cleanupTime bounds the work that a call leaves behind.
const cleanupTime = 2 * time.Second

// reserve makes Close wait for what the caller may have to clean up: s.cleanups.Done ends it. It reports false if the Store
// is closed.
func (s *Store) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.cleanups.Add(1)
	return true
}

// detach runs f in the background, with a context that outlives the caller's and for a short time Close. It returns a
// channel that is closed when f is done, nil if the Store is closed.
func (s *Store) detach(ctx context.Context, f func(context.Context)) <-chan struct{} {
	if !s.reserve() {
		return nil
	}
	defer s.cleanups.Done()
	return s.cleanUp(ctx, f)
}

// cleanUp is detach for a caller in reserve.
func (s *Store) cleanUp(ctx context.Context, f func(context.Context)) <-chan struct{} {
	done := make(chan struct{})
	s.cleanups.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.WithValue(context.WithoutCancel(ctx), cleanup{}, true), cleanupTime)
		defer cancel()
		f(ctx)
	})
	return done
}

// finish runs f, which ends something on the server, and waits for it until ctx ends. An ended ctx does not keep f from
// its work.
func (s *Store) finish(ctx context.Context, f func(context.Context) error) error {
	var err error
	done := s.detach(ctx, func(ctx context.Context) { err = f(ctx) })
	if done == nil {
		return backend.ErrClosed
	}
	select {
	case <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case <-done:
		return err
	default:
		return backend.ContextError(ctx)
	}
}

// read makes a request that changes nothing.
func (s *Store) read(ctx context.Context, w *wire, args []any) (any, error) {
	reply, _, err := s.sendQuick(ctx, w, args)
	if err != nil {
		return nil, readError(ctx, err)
	}
	return reply, nil
}
