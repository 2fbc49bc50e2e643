package zookeeperkv

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// maxInFlight bounds the requests of one link that are under way, abandoned ones included.
const maxInFlight = 256

// link is one connection to the ensemble with what the client does not know: contexts, and who waits for whom.
//
// The client's calls block without a context, for as long as it takes to reconnect. Each runs in a goroutine of the
// link's, so that its caller can leave; close waits for them.
type link struct {
	conn        *zk.Conn
	wire        *wire // nil on a connection of the caller's
	session     session
	hub         hub
	stamps      stampIndex
	log         *slog.Logger
	dialTimeout time.Duration

	login  *login // nil: there are no credentials to present
	events <-chan zk.Event

	slots chan struct{}
	seen  atomic.Int64 // the greatest zxid that a response is known to reflect

	mu      sync.Mutex
	ended   bool
	barrier *barrier // whose sync has not been written yet
	done    chan struct{}
	wg      sync.WaitGroup
	ctx     context.Context // ends with the link
	cancel  context.CancelFunc

	contenders atomic.Int32 // places in queues
	pulsing    sync.Once
	start      time.Time
	pulse      atomic.Int64 // when the last pulse that was answered was sent, in nanoseconds from start
}

func newLink(conn *zk.Conn, w *wire, o Options) *link {
	l := &link{
		conn: conn, wire: w, log: o.Logger, dialTimeout: o.DialTimeout,
		slots: make(chan struct{}, maxInFlight), done: make(chan struct{}), start: time.Now(),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.stamps.turn = make(chan struct{}, 1)
	l.session.init(l)
	l.hub.init(l)
	return l
}

// begin reserves a goroutine, which calls wg.Done; false once the link is closed.
func (l *link) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.wg.Add(1)
	return true
}

// spawn runs f in a goroutine that close waits for.
func (l *link) spawn(f func()) bool {
	if !l.begin() {
		return false
	}
	go func() {
		defer l.wg.Done()
		f()
	}()
	return true
}

// close ends what waits. A connection of the caller's stays open, and requests that are under way on it are waited for.
func (l *link) close(owned bool) {
	l.mu.Lock()
	ended := l.ended
	l.ended = true
	if !ended {
		close(l.done)
		l.cancel()
	}
	l.mu.Unlock()
	if owned && !ended {
		if l.conn.State() != zk.StateHasSession {
			l.wire.close() // nobody is there to say goodbye to
		}
		l.conn.Close()
		l.wire.close()
		for range l.events {
			// Closed by the client when its goroutines are gone.
		}
	}
	l.wg.Wait()
}

func (l *link) shut() { l.close(true) }

// saw notes that the session has seen the state at zxid: later reads on it are no older.
func (l *link) saw(zxid int64) {
	for {
		old := l.seen.Load()
		if zxid <= old || l.seen.CompareAndSwap(old, zxid) {
			return
		}
	}
}

// zxid is a lower bound of the state that the next read will see.
func (l *link) zxid() int64 {
	z := l.seen.Load()
	if l.wire != nil {
		z = max(z, l.wire.zxid.Load())
	}
	return z
}

// effect says what may be repeated.
type effect bool

const (
	reads  effect = false
	writes effect = true
)

// flight is one request under way. Who changes state first decides whether the caller or late takes the result.
type flight[T any] struct {
	value T
	err   error
	done  chan struct{}
	taken atomic.Bool
}

// call makes one request of the client. It returns when ctx ends or when the server has not answered for the dial
// timeout, and leaves the request to its goroutine. Then late, if there is one, gets the result (R38).
//
// Reads, and writes that were never sent, are repeated until the dial timeout. A write whose reply was lost is
// ErrUncertain.
func call[T any](ctx context.Context, l *link, e effect, request func(*zk.Conn) (T, error), late func(T, error)) (T, error) {
	var zero T
	timer := time.NewTimer(l.dialTimeout)
	defer timer.Stop()
	wait := backoff.Backoff{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}
	var last error
	expired := false
	for {
		if err := l.ready(ctx, timer.C, last); err != nil {
			return zero, err
		}
		f, err := launch(ctx, l, timer.C, request, late)
		if err != nil {
			return zero, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			if f.taken.CompareAndSwap(false, true) {
				return zero, abandoned(e, backend.ContextError(ctx))
			}
			<-f.done
		case <-timer.C:
			if f.taken.CompareAndSwap(false, true) {
				return zero, abandoned(e, errNoAnswer)
			}
			<-f.done
			expired = true
		case <-l.done:
			if f.taken.CompareAndSwap(false, true) {
				return zero, abandoned(e, backend.ErrClosed)
			}
			<-f.done
		}
		retry, err := outcome(e, f.err)
		if err != nil && !answered(f.err) {
			select {
			case <-l.done: // which may be why
				return zero, abandoned(e, backend.ErrClosed)
			default:
			}
		}
		if !retry || expired {
			return f.value, err
		}
		last = err
		d := time.NewTimer(wait.Next())
		select {
		case <-d.C:
		case <-ctx.Done():
		case <-timer.C:
			d.Stop()
			return zero, err
		case <-l.done:
		}
		d.Stop()
	}
}

// launch starts a request in a goroutine of its own.
func launch[T any](ctx context.Context, l *link, timeout <-chan time.Time, request func(*zk.Conn) (T, error), late func(T, error)) (*flight[T], error) {
	select {
	case l.slots <- struct{}{}:
	default:
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, backend.ContextError(ctx)
		case <-timeout:
			return nil, backend.Because(backend.ErrUnavailable, errNoAnswer)
		case <-l.done:
			return nil, backend.ErrClosed
		}
	}
	if !l.begin() {
		<-l.slots
		return nil, backend.ErrClosed
	}
	f := &flight[T]{done: make(chan struct{})}
	go func() {
		defer l.wg.Done()
		f.value, f.err = request(l.conn)
		<-l.slots
		if f.err == nil && l.wire == nil {
			l.session.touch()
		}
		mine := f.taken.CompareAndSwap(false, true)
		close(f.done)
		if !mine && late != nil {
			late(f.value, f.err)
		}
	}()
	return f, nil
}

// ready waits until there is a session.
func (l *link) ready(ctx context.Context, timeout <-chan time.Time, last error) error {
	if l.login == nil && ctx.Err() == nil && l.conn.State() == zk.StateHasSession {
		return nil
	}
	for {
		if ctx.Err() != nil {
			return backend.ContextError(ctx)
		}
		changed := l.session.changed()
		select {
		case <-l.done:
			return backend.ErrClosed
		default:
		}
		waitFor := changed
		if l.conn.State() == zk.StateHasSession {
			if l.login == nil {
				return nil
			}
			select {
			case <-l.login.done:
				return l.login.err
			default:
				waitFor = l.login.done
			}
		}
		select {
		case <-waitFor:
		case <-ctx.Done():
		case <-l.done:
		case <-timeout:
			if last == nil {
				last = backend.Because(backend.ErrUnavailable, zk.ErrNoServer)
			}
			return last
		}
	}
}
