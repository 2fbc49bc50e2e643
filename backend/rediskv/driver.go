package rediskv

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/polykv/kv/backend"
)

// Driver opens Stores from URLs; see the package documentation for their form. The embedded Options hold what a URL does
// not say; Root is taken from the URL.
type Driver struct {
	Options

	// TLS is the configuration for the schemes that start with rediss, and for the others as well if it is set. It
	// carries a client certificate where the server wants one. nil: the system's roots.
	TLS *tls.Config
}

// Schemes implements backend.Driver.
func (Driver) Schemes() []string {
	return []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
}

// Open implements backend.Driver. It does no I/O. Errors: backend.ErrInvalid.
func (d Driver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	o := d.Options
	o.Root = u.Root()
	p := u.Params()
	o.Meta = p.String("meta", o.Meta)
	o.DialTimeout = p.Duration("dial_timeout", o.DialTimeout)
	o.WatchBuffer = p.Int("watch_buffer", o.WatchBuffer)
	o.MaxValueBytes = p.Int("max_value_bytes", o.MaxValueBytes)
	o.History.Entries = p.Int("history_entries", o.History.Entries)
	o.History.Age = p.Duration("history_age", o.History.Age)
	o.History.Bytes = p.Int("history_bytes", o.History.Bytes)

	scheme, kind, _ := strings.Cut(u.Scheme, "+")
	c := redis.UniversalOptions{
		Username:      u.User,
		Password:      u.Password,
		PoolSize:      p.Int("pool_size", 0),
		Protocol:      2,  // nothing is pushed to a Store, and go-redis prints what fails as it looks for that
		MaxRetries:    -1, // no request of a Store is repeated by the client anyway
		DialerRetries: 1,  // nor a connection: who asked hears of it at once
		DialTimeout:   o.withDefaults().DialTimeout,
		// Deadlines are then handed on to the connections; see Dialer. Those of the client have to be later.
		ContextTimeoutEnabled: true,
		ReadTimeout:           2 * max(replyTimeout, o.DialTimeout),
		WriteTimeout:          2 * max(replyTimeout, o.DialTimeout),
		// Push messages about maintenance are for Redis Enterprise, and cost a goroutine.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if scheme == "rediss" || d.TLS != nil {
		c.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if d.TLS != nil {
			c.TLSConfig = d.TLS.Clone()
		}
	}
	port := "6379"
	ss := &sentinels{timeout: c.DialTimeout, conns: map[*toPrimary]struct{}{}}
	if kind == "sentinel" {
		port = "26379"
		ss.master = p.String("master", "mymaster")
		ss.user, ss.password = p.String("sentinel_user", ""), p.String("sentinel_password", "")
	}
	if kind != "cluster" {
		c.DB = p.Int("db", 0)
	}
	c.Addrs = u.HostPorts("127.0.0.1", port)
	if err := p.Err(); err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(d.Schemes(), u.Scheme):
		return nil, fmt.Errorf("%w: URL: scheme %q is not of Redis", backend.ErrInvalid, u.Scheme)
	case kind == "" && len(c.Addrs) > 1:
		return nil, fmt.Errorf("%w: URL: several hosts need the scheme redis+sentinel or redis+cluster", backend.ErrInvalid)
	case c.PoolSize > maxPoolSize:
		return nil, fmt.Errorf("%w: URL: a pool has up to %d connections", backend.ErrInvalid, maxPoolSize)
	case c.Username != "" && c.Password == "":
		return nil, fmt.Errorf("%w: URL: a user needs a password", backend.ErrInvalid)
	}
	dialer := &net.Dialer{Timeout: c.DialTimeout}
	connect := dialer.DialContext
	if c.TLSConfig != nil {
		connect = (&tls.Dialer{NetDialer: dialer, Config: c.TLSConfig}).DialContext
	}
	if kind == "sentinel" {
		ss.addrs, ss.connect = c.Addrs, connect
		connect = ss.dial
	}
	o.Dialer = NewDialer(connect)
	c.Dialer = o.Dialer.Dial
	var client redis.UniversalClient
	if kind == "cluster" {
		client = redis.NewClusterClient(c.Cluster())
	} else {
		client = redis.NewClient(c.Simple())
	}
	s := New(client, o)
	s.owned, s.sentinels = true, ss
	if s.broken != nil {
		return nil, closeWith(s, s.broken)
	}
	return s, nil
}

func closeWith(s *Store, err error) error {
	if closing := s.Close(); closing != nil {
		return fmt.Errorf("%w (and closing: %w)", err, closing)
	}
	return err
}

var _ backend.Driver = Driver{}
