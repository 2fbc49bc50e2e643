package zookeeperkv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// dialer opens sessions with one ensemble.
type dialer struct {
	hosts []string
	dial  dialFunc
	creds []credential
	o     Options
}

// credential is what AddAuth takes.
type credential struct {
	scheme string
	auth   []byte
}

// open starts a session. It returns before there is a connection.
func (d *dialer) open(timeout time.Duration) (*link, error) {
	w := newWire(d.dial, d.o)
	l := newLink(nil, w, d.o)
	conn, events, err := zk.Connect(d.hosts, timeout,
		zk.WithDialer(w.open),
		zk.WithHostProvider(&hosts{dial: w.ctx}),
		zk.WithLogger(clientLog{d.o.Logger}),
		zk.WithLogInfo(false),
		zk.WithEventCallback(l.event),
		zk.WithMaxConnBufferSize(max(d.o.MaxRequest, DefaultMaxRequest)+64<<10),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backend.ErrInvalid, err)
	}
	l.conn, l.events = conn, events
	if len(d.creds) > 0 {
		l.login = &login{done: make(chan struct{})}
		l.spawn(func() { l.login.present(l, d.creds) })
	}
	return l, nil
}

// event takes what the client reports. It must not block.
func (l *link) event(e zk.Event) {
	if e.Type == zk.EventSession {
		l.session.event(e)
		return
	}
	l.hub.event(e)
}

// login presents credentials on the first connection. On later ones the client does.
type login struct {
	done chan struct{}
	err  error
}

func (g *login) present(l *link, creds []credential) {
	defer close(g.done)
	ctx, cancel := context.WithCancel(l.wire.ctx)
	defer cancel()
	var wait backoff.Backoff
	for i := 0; i < len(creds); {
		err := l.conn.AddAuth(creds[i].scheme, creds[i].auth)
		switch {
		case err == nil:
			i++
			wait.Reset()
		case errors.Is(err, zk.ErrAuthFailed):
			g.err = backend.Because(backend.ErrPermission, err)
			return
		case !wait.Wait(ctx):
			g.err = backend.ErrClosed
			return
		}
	}
}

// hosts names the servers in turn. Unlike the client's own list it looks names up whenever it dials, so that servers
// may move, and it goes back at once to a server that was lost, once.
type hosts struct {
	dial context.Context

	mu      sync.Mutex
	names   []string
	next    int
	tried   int // since the last success
	success time.Time
}

func (h *hosts) Init(servers []string) error {
	h.names = slices.Clone(servers)
	rand.Shuffle(len(h.names), func(i, j int) { h.names[i], h.names[j] = h.names[j], h.names[i] })
	return nil
}

func (h *hosts) Len() int { return len(h.names) }

// Next returns the server to try. With wait the client fails what is queued, and pauses for a second: when all
// have been tried, and when a connection that was made a moment ago is gone already.
func (h *hosts) Next() (server string, wait bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	server = h.names[h.next%len(h.names)]
	wait = h.tried >= len(h.names) || h.tried == 0 && time.Since(h.success) < time.Second && !h.success.IsZero() ||
		h.dial.Err() != nil
	if wait {
		h.tried = 0
	}
	h.next++
	h.tried++
	return server, wait
}

func (h *hosts) Connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried = 0
	h.success = time.Now()
	h.next-- // the same server first, if it comes back
}

// clientLog passes what the client prints to a slog.Logger.
type clientLog struct{ to *slog.Logger }

func (c clientLog) Printf(format string, args ...any) {
	if c.to.Enabled(context.Background(), slog.LevelInfo) {
		c.to.Info("zookeeper client: " + fmt.Sprintf(format, args...))
	}
}
