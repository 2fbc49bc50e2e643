package consulkv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
)

// mode is the consistency of a read, as a query parameter.
type mode string

const (
	consistent mode = "consistent" // confirmed by a majority
	stale      mode = "stale"      // whatever the server at hand has
)

// request is one HTTP request to the agent.
type request struct {
	method string
	path   string // not escaped
	query  string // escaped
	body   []byte
	write  bool // may change something: a lost reply is ErrUncertain
	stream bool // may be slow to read, or wait for a change
	held   bool // waits for a change
	late   bool // part of cleaning up, which Close does not interrupt
}

// response is an answer whose body has yet to be read. Its Close must be
// called; it is safe to call it early.
type response struct {
	status int
	index  uint64 // X-Consul-Index, 0 if there is none
	body   io.Reader
	close  func()
}

func params(name, value string) string {
	if value == "" {
		return ""
	}
	return "&" + name + "=" + url.QueryEscape(value)
}

// send sends r and returns the answer once its header has arrived. Errors
// match ErrClosed, ErrUnavailable, ErrUncertain (for a write that may have
// reached the server) and the error of ctx.
//
// The dial timeout covers the time until there is a connection, whichever
// transport makes it, and of a call without a deadline then the time until the
// answer begins: a server that takes connections and says nothing is not
// reachable either (R38). A request that waits for a change is slow by design.
//
// A read that was ended with somebody else's request (see lost) is sent again.
func (s *Store) send(ctx context.Context, r request) (*response, error) {
	for again := 0; ; again++ {
		resp, err := s.sendOnce(ctx, r)
		if r.write || again == maxAgain || !errors.Is(err, errOthers) {
			return resp, err
		}
	}
}

// maxAgain bounds how often a read is repeated that others have ended. Once is
// rare, and each time is a matter of microseconds.
const maxAgain = 5

func (s *Store) sendOnce(ctx context.Context, r request) (*response, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	life := s.ctx
	if r.late {
		life = s.late
	}
	if life.Err() != nil {
		return nil, backend.ErrClosed
	}
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}

	done, err := s.admit(ctx, r.stream)
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(life, func() { cancel(backend.ErrClosed) })
	dial := time.AfterFunc(s.o.DialTimeout, func() { cancel(errDial) })
	silence := time.AfterFunc(s.o.DialTimeout, func() { cancel(errSilent) })
	silence.Stop()
	_, deadline := ctx.Deadline()
	var sent atomic.Bool
	inner = httptrace.WithClientTrace(inner, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		sent.Store(true)
		dial.Stop()
		if !r.held && !deadline {
			silence.Reset(s.o.DialTimeout)
		}
	}})
	release := func() {
		dial.Stop()
		silence.Stop()
		detach()
		cancel(nil)
		done()
	}

	target := url.URL{Path: r.path} // escapes what has to be
	req, err := http.NewRequestWithContext(inner, r.method, s.base+target.EscapedPath()+"?"+r.query+s.query, nil)
	if err != nil {
		release()
		return nil, backend.Because(backend.ErrInvalid, err)
	}
	req.Header = s.headers.Clone()
	if r.body != nil {
		req.ContentLength = int64(len(r.body))
		req.Header.Set("Content-Type", "application/json")
		// With GetBody the transport tries again what it could not send at
		// all, on a connection that the server closed while it was idle. It
		// never repeats a PUT that was sent.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
		req.Body, _ = req.GetBody()
	}
	resp, err := s.http.Do(req)
	silence.Stop()
	if err != nil {
		err = s.lost(ctx, inner, r, sent.Load(), err)
		release()
		return nil, err
	}
	s.answers.Add(1)
	out := &response{status: resp.StatusCode, close: func() {
		resp.Body.Close()
		release()
	}}
	out.body = &bodyReader{resp.Body, func(err error) error { return s.lost(ctx, inner, r, true, err) }}
	out.index, _ = strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	return out, nil
}

// maxInFlight bounds how many requests of one Store are under way. The agent
// closes the 201st connection of one client address (http_max_conns_per_client),
// with an answer that nobody asked for, so a burst has to queue on this side.
const maxInFlight = 64

// admit waits for a place among the requests under way. Streams need none:
// their number is that of the lists and watches that are open, and a caller
// may make other calls while it reads one.
func (s *Store) admit(ctx context.Context, stream bool) (done func(), err error) {
	if stream {
		return func() {}, nil
	}
	select {
	case s.inFlight <- struct{}{}:
	default:
		if err := s.queueUp(ctx); err != nil {
			return nil, err
		}
	}
	return sync.OnceFunc(func() { <-s.inFlight }), nil
}

// queueUp is admit where all places are taken. A burst may take its time, but
// behind an agent that has answered nobody for the dial timeout nobody waits on
// who has set no deadline.
func (s *Store) queueUp(ctx context.Context) error {
	_, deadline := ctx.Deadline()
	before := s.answers.Load()
	t := time.NewTicker(s.o.DialTimeout)
	defer t.Stop()
	for {
		select {
		case s.inFlight <- struct{}{}:
			return nil
		case <-t.C:
			now := s.answers.Load()
			if now == before && !deadline {
				return backend.Because(backend.ErrUnavailable, errSilent)
			}
			before = now
		case <-ctx.Done():
			return backend.ContextError(ctx)
		}
	}
}

// bodyReader classifies what goes wrong while a body is read.
type bodyReader struct {
	r        io.Reader
	classify func(error) error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = b.classify(err)
	}
	return n, err
}

// errOthers is why a request was lost that nothing was wrong with.
var errOthers = errors.New("the connection was closed for another request")

// lost is the error of a request that has no reply, or half of one.
//
// net/http puts a connection back before it hands on an answer without a body,
// which Consul's is for a key that is not there. If the context of the one that
// was answered ends in between, it closes the connection, and tells whoever has
// it by then of that other context.
func (s *Store) lost(ctx, inner context.Context, r request, sent bool, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // which repeats neither method nor address
	}
	cause := context.Cause(inner)
	if sent && cause == nil && endsContexts(err) {
		err = errOthers
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "remote error":
		// So crypto/tls marks an alert: the server refused the connection, a
		// certificate for instance, and has read nothing of the request.
		return backend.Because(backend.ErrPermission, err)
	case ctx.Err() != nil:
		err = backend.ContextError(ctx)
	case cause == backend.ErrClosed:
		err = backend.ErrClosed
	case cause == errDial:
		err = backend.Because(backend.ErrUnavailable, errDial)
		sent = false
	case cause == errSilent:
		err = errSilent
		if !r.write {
			err = backend.Because(backend.ErrUnavailable, err)
		}
	case !r.write || !sent:
		return backend.Because(backend.ErrUnavailable, err)
	}
	if r.write && sent {
		return backend.Because(backend.ErrUncertain, err)
	}
	return err
}

// endsContexts reports whether err is why a context of one of our requests ended.
// It is not that of a connection's own time limit, which is a net.Error too.
func endsContexts(err error) bool {
	switch err {
	case context.Canceled, context.DeadlineExceeded, backend.ErrClosed, errDial, errSilent:
		return true
	}
	return false
}

// refused is the error of an answer that is no success. It reads the body.
//
// A write that is answered with 500 may have been applied: the leader says so
// when it loses its leadership while a write is under way. 429 is the agent's
// limiter, which looks at requests before anything else does.
func (r *response) refused(write bool) error {
	text, _ := io.ReadAll(io.LimitReader(r.body, 4<<10))
	err := api.StatusError{Code: r.status, Body: strings.TrimSpace(string(text))}
	sentinel := backend.ErrUnavailable
	switch {
	case r.status == http.StatusForbidden, r.status == http.StatusUnauthorized:
		sentinel = backend.ErrPermission
	case r.status == http.StatusRequestEntityTooLarge:
		sentinel = backend.ErrTooLarge
	case r.status == http.StatusTooManyRequests:
	case r.status < http.StatusInternalServerError:
		sentinel = backend.ErrInvalid
	case write:
		sentinel = backend.ErrUncertain
	}
	return backend.Because(sentinel, err)
}

// saw notes an index of the server's KV store.
func (s *Store) saw(index uint64) {
	for {
		old := s.seen.Load()
		if index <= old || s.seen.CompareAndSwap(old, index) {
			return
		}
	}
}

// waitParam begins what makes a read wait for a change.
const waitParam = "&wait="

// fetch asks for the pairs below a native prefix, or for the one pair called
// name. Nothing there is an empty list. extra is more of the query.
func (s *Store) fetch(ctx context.Context, name string, recurse bool, m mode, extra string) (*response, error) {
	query := string(m) + extra
	if recurse {
		query += "&recurse"
	}
	held := strings.HasPrefix(extra, waitParam)
	return s.ask(ctx, name, request{query: query, stream: recurse || extra != "", held: held})
}

var errNotConsul = errors.New("the answer is not Consul's: 404 without X-Consul-Index")

// ask makes a request for pairs.
func (s *Store) ask(ctx context.Context, name string, r request) (*response, error) {
	r.method, r.path = http.MethodGet, "/v1/kv/"+name
	resp, err := s.send(ctx, r)
	if err != nil {
		return nil, err
	}
	switch resp.status {
	case http.StatusOK:
	case http.StatusNotFound:
		// Consul tells its index beside every answer about keys. Without one it
		// is somebody else's 404, a proxy's say, and no word about the key.
		if resp.index == 0 {
			resp.close()
			return nil, backend.Because(backend.ErrUnavailable, errNotConsul)
		}
		resp.body = strings.NewReader("[]")
	default:
		err := resp.refused(false)
		resp.close()
		return nil, err
	}
	s.saw(resp.index)
	return resp, nil
}
