package rediskv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// sentinels know which server is the primary. go-redis's failover client asks them too, and prints what it hears. So the
// driver opens a plain client, which dials whom the sentinels name, and closes its connections when they name another one.
type sentinels struct {
	addrs          []string
	master         string
	user, password string
	timeout        time.Duration
	connect        func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	conns   map[*toPrimary]struct{}
	at      string             // the primary, as a sentinel has told unasked
	moves   int                // how often one has
	stop    context.CancelFunc // nil until the first connection
	stopped bool
	work    sync.WaitGroup
}

// toPrimary is a connection to who was the primary.
type toPrimary struct {
	net.Conn
	addr string
	of   *sentinels
}

func (c *toPrimary) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// dial connects to the primary, whatever address the client has.
func (ss *sentinels) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	ss.mu.Lock()
	moves := ss.moves
	ss.mu.Unlock()
	addr, err := ss.primary(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := ss.connect(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &toPrimary{conn, addr, ss}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.stopped:
		_ = conn.Close()
		return nil, net.ErrClosed
	case ss.moves != moves && ss.at != addr: // moved did not see this connection
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %s has ceased to be the primary", backend.ErrUnavailable, addr)
	}
	ss.conns[c] = struct{}{}
	if ss.stop == nil {
		var life context.Context
		life, ss.stop = context.WithCancel(context.Background())
		ss.work.Go(func() { ss.follow(life) })
	}
	if raw, ok := conn.(syscall.Conn); ok {
		return struct {
			*toPrimary
			syscall.Conn
		}{c, raw}, nil
	}
	return c, nil
}

func (ss *sentinels) close() {
	ss.mu.Lock()
	ss.stopped = true
	if ss.stop != nil {
		ss.stop()
	}
	ss.mu.Unlock()
	ss.work.Wait()
}

func (ss *sentinels) client(addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *redis.SentinelClient {
	return redis.NewSentinelClient(&redis.Options{
		Addr: addr, Username: ss.user, Password: ss.password, Protocol: 2, PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		Dialer: dial, DialTimeout: ss.timeout, ReadTimeout: ss.timeout, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// primary asks all sentinels and takes the first answer.
func (ss *sentinels) primary(ctx context.Context) (string, error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, ss.timeout)
	defer cancel()
	type answer struct {
		addr string
		err  error
	}
	answers := make(chan answer, len(ss.addrs))
	for _, addr := range ss.addrs {
		asking.Go(func() {
			at, err := ss.ask(ctx, addr)
			answers <- answer{at, err}
		})
	}
	var failed []error
	for range ss.addrs {
		a := <-answers
		if a.err == nil {
			return a.addr, nil
		}
		failed = append(failed, a.err)
	}
	return "", fmt.Errorf("asking the sentinels for %q: %w", ss.master, errors.Join(failed...))
}

func (ss *sentinels) ask(ctx context.Context, addr string) (string, error) {
	// go-redis would print why it could not connect, and go on connecting after ctx.
	conn, err := ss.connect(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := ss.client(addr, func(context.Context, string, string) (net.Conn, error) { return conn, nil })
	defer c.Close()
	at, err := c.GetMasterAddrByName(ctx, ss.master).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", fmt.Errorf("%w: %s knows no such master", backend.ErrUnavailable, addr)
	case err != nil:
		return "", fmt.Errorf("%s: %w", addr, err)
	case len(at) != 2:
		return "", fmt.Errorf("%w: answer of %s", backend.ErrCorrupt, addr)
	}
	return net.JoinHostPort(at[0], at[1]), nil
}

// follow closes connections to a server that is the primary no more. Of one that has failed they end anyway; one that was
// cut off would go on serving those who are cut off with it.
func (ss *sentinels) follow(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for _, addr := range ss.addrs {
		work.Go(func() {
			var wait backoff.Backoff
			for ctx.Err() == nil {
				if ss.listen(ctx, addr) {
					wait.Reset()
				}
				wait.Wait(ctx)
			}
		})
	}
}

// listen hears one sentinel until the connection fails, and reports whether there was one.
func (ss *sentinels) listen(ctx context.Context, addr string) (worked bool) {
	c := ss.client(addr, ss.connect)
	defer c.Close()
	sub := c.Subscribe(ctx, "+switch-master")
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { sub.Close() })() // Receive does not honour ctx
	pinging, end := context.WithCancel(ctx)
	var pings sync.WaitGroup
	defer pings.Wait()
	defer end()
	pings.Go(func() { test(pinging, subscription{PubSub: sub}) })
	for {
		got, err := sub.ReceiveTimeout(ctx, silence)
		if err != nil {
			return worked
		}
		switch m := got.(type) {
		case *redis.Subscription:
			worked = true
			// What was said before is in the answer.
			if at, err := ss.ask(ctx, addr); err == nil {
				ss.moved(at)
			}
		case *redis.Message: // name, old host and port, new host and port
			if f := strings.Fields(m.Payload); len(f) == 5 && f[0] == ss.master {
				ss.moved(net.JoinHostPort(f[3], f[4]))
			}
		}
	}
}

func (ss *sentinels) moved(addr string) {
	var stale []*toPrimary
	ss.mu.Lock()
	ss.at = addr
	ss.moves++
	for c := range ss.conns {
		if c.addr != addr {
			stale = append(stale, c)
		}
	}
	ss.mu.Unlock()
	for _, c := range stale {
		_ = c.Close()
	}
}
