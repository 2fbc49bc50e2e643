package zookeeperkv

import (
	"context"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// sessions are the connections that places in queues are bound to. A place lives as long as its session, and a session
// has one timeout. A lease that is longer than the main session's timeout therefore gets a session of its own, as long
// as the server grants (20 ticks, 40 s, in its default configuration); leases that are near enough share one.
type sessions struct {
	s *Store

	mu    sync.Mutex
	links []leaseLink
	ended bool
}

type leaseLink struct {
	*link
	asked time.Duration
}

// link returns the connection for a lease, and the timeout of its session. That is less than the lease if the server
// grants no more, or the connection is the caller's: the place is then lost earlier when contact is lost, and the
// contender says so.
func (p *sessions) link(ctx context.Context, lease time.Duration) (*link, time.Duration, error) {
	l, asked := p.s.link, p.s.o.SessionTimeout
	if lease > p.s.minLease() && p.s.dialer != nil {
		ll, err := p.longer(lease)
		if err != nil {
			return nil, 0, err
		}
		l, asked = ll.link, ll.asked
	}
	if l.wire != nil && l.login == nil && l.conn.State() == zk.StateHasSession {
		if granted, ok := l.wire.granted(); ok {
			return l, granted, nil
		}
	}
	// What is granted is known once there is a session.
	if _, err := call(ctx, l, reads, func(*zk.Conn) (struct{}, error) { return struct{}{}, nil }, nil); err != nil {
		return nil, 0, err
	}
	return l, l.timeout(asked), nil
}

// longer returns a session for lease, a new one if none of those that are open will do.
func (p *sessions) longer(lease time.Duration) (leaseLink, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return leaseLink{}, backend.ErrClosed
	}
	for _, l := range p.links {
		granted := l.timeout(l.asked)
		if granted >= lease || granted < l.asked && lease >= granted { // the server grants no more
			return l, nil
		}
	}
	l, err := p.s.dialer.open(lease)
	if err != nil {
		return leaseLink{}, err
	}
	p.links = append(p.links, leaseLink{l, lease})
	return p.links[len(p.links)-1], nil
}

func (p *sessions) close() {
	p.mu.Lock()
	p.ended = true
	links := p.links
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() { l.close(true) })
	}
	wg.Wait()
}

// minLease is the session timeout that the server granted, or was asked for.
func (s *Store) minLease() time.Duration { return s.link.timeout(s.o.SessionTimeout) }

// timeout is that of the session, as far as it is known.
func (l *link) timeout(asked time.Duration) time.Duration {
	if l.wire != nil {
		if d, ok := l.wire.granted(); ok {
			return d
		}
	}
	return asked
}

// context returns a context that ends with the link.
func (l *link) context() (context.Context, context.CancelFunc) { return context.WithCancel(l.ctx) }

// contact is when the last request was sent that the server is known to have got: from then on it keeps the session
// for the timeout. On a connection of the driver's the client's pings tell; on the caller's they cannot be seen, and
// requests are sent in their place while there are contenders.
func (l *link) contact(timeout time.Duration) time.Time {
	if l.wire != nil {
		return l.wire.lastContact()
	}
	l.pulsing.Do(func() {
		l.spawn(func() {
			t := time.NewTicker(timeout / 4)
			defer t.Stop()
			for {
				if l.contenders.Load() > 0 {
					l.beat(timeout / 4)
				}
				select {
				case <-t.C:
				case <-l.done:
					return
				}
			}
		})
	})
	return l.start.Add(time.Duration(l.pulse.Load()))
}

func (l *link) beat(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	sent := time.Since(l.start)
	_, err := call(ctx, l, reads, func(c *zk.Conn) (bool, error) {
		_, _, err := c.Exists("/")
		return true, err
	}, nil)
	if err == nil {
		l.pulse.Store(int64(sent))
	}
}
