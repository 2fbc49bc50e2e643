package rediskv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
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
	epoch   uint64             // of the last election that is known
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
	o, err := ss.primary(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := ss.connect(ctx, network, o.addr)
	if err != nil {
		return nil, err
	}
	c := &toPrimary{conn, o.addr, ss}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.stopped:
		_ = conn.Close()
		return nil, net.ErrClosed
	case ss.moves != moves && ss.at != o.addr: // moved did not see this connection
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %s has ceased to be the primary", backend.ErrUnavailable, o.addr)
	}
	ss.conns[c] = struct{}{}
	ss.epoch = o.epoch
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

// opinion is who the primary is in the view of a sentinel, and since which election. A sentinel that was cut off from the
// others names who was the primary, and goes on for seconds after it is back: the later election is right.
type opinion struct {
	addr  string
	epoch uint64
}

// secondOpinion is how long a primary that one sentinel has named waits for what the others say.
const secondOpinion = 250 * time.Millisecond

// primary asks all sentinels, and decides when most have answered or none of the others is likely to.
func (ss *sentinels) primary(ctx context.Context) (opinion, error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, ss.timeout)
	defer cancel()
	type answer struct {
		opinion
		err error
	}
	answers := make(chan answer, len(ss.addrs))
	for _, addr := range ss.addrs {
		asking.Go(func() {
			o, err := ss.ask(ctx, addr)
			answers <- answer{o, err}
		})
	}
	var (
		failed  []error
		latest  opinion
		heard   int
		decided <-chan time.Time
	)
	for range ss.addrs {
		select {
		case a := <-answers:
			if a.err != nil {
				failed = append(failed, a.err)
				continue
			}
			if heard++; heard == 1 || a.epoch > latest.epoch {
				latest = a.opinion
			}
			if heard > len(ss.addrs)/2 {
				return latest, nil
			}
			if heard == 1 {
				t := time.NewTimer(secondOpinion)
				defer t.Stop()
				decided = t.C
			}
		case <-decided:
			return latest, nil
		}
	}
	if heard > 0 {
		return latest, nil
	}
	return opinion{}, fmt.Errorf("asking the sentinels for %q: %w", ss.master, errors.Join(failed...))
}

// ask asks one sentinel. One that may not tell of its elections has seen none.
func (ss *sentinels) ask(ctx context.Context, addr string) (opinion, error) {
	// go-redis would print why it could not connect, and go on connecting after ctx.
	conn, err := ss.connect(ctx, "tcp", addr)
	if err != nil {
		return opinion{}, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := ss.client(addr, func(context.Context, string, string) (net.Conn, error) { return conn, nil })
	defer c.Close()
	at, err := c.GetMasterAddrByName(ctx, ss.master).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return opinion{}, fmt.Errorf("%w: %s knows no such master", backend.ErrUnavailable, addr)
	case err != nil:
		return opinion{}, fmt.Errorf("%s: %w", addr, err)
	case len(at) != 2:
		return opinion{}, fmt.Errorf("%w: answer of %s", backend.ErrCorrupt, addr)
	}
	o := opinion{addr: net.JoinHostPort(at[0], at[1])}
	if len(ss.addrs) > 1 {
		// The state of the master, which names the new one later than the answer above does.
		state, err := c.Master(ctx, ss.master).Result()
		if err != nil && ctx.Err() != nil {
			return opinion{}, fmt.Errorf("%s: %w", addr, err)
		}
		o.epoch, _ = strconv.ParseUint(state["config-epoch"], 10, 64)
	}
	return o, nil
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
			ss.hear(ctx, addr)
		case *redis.Message: // name, old host and port, new host and port
			if f := strings.Fields(m.Payload); len(f) == 5 && f[0] == ss.master {
				ss.mu.Lock()
				epoch := ss.epoch // of this election or the one before
				ss.mu.Unlock()
				ss.moved(opinion{net.JoinHostPort(f[3], f[4]), epoch})
			}
		}
	}
}

// hear takes the opinion of the sentinel at addr, or of all if it is behind what was heard before: it may have been away, or
// they all may have begun anew.
func (ss *sentinels) hear(ctx context.Context, addr string) {
	o, err := ss.ask(ctx, addr)
	ss.mu.Lock()
	behind := o.epoch < ss.epoch
	ss.mu.Unlock()
	if err == nil && behind {
		o, err = ss.primary(ctx)
	}
	if err == nil {
		ss.moved(o)
	}
}

func (ss *sentinels) moved(o opinion) {
	var stale []*toPrimary
	ss.mu.Lock()
	ss.at, ss.epoch = o.addr, o.epoch
	ss.moves++
	for c := range ss.conns {
		if c.addr != o.addr {
			stale = append(stale, c)
		}
	}
	ss.mu.Unlock()
	for _, c := range stale {
		_ = c.Close()
	}
}
