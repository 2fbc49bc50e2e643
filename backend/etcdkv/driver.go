package etcdkv

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"github.com/polykv/kv/backend"
)

// Driver opens Stores from URLs; see the package documentation for their form.
// The embedded Options hold what a URL does not say; Root is taken from the
// URL.
type Driver struct {
	Options

	// TLS is the configuration for etcd+tls, and for etcd as well if it is
	// set. It carries a client certificate where the cluster wants one. nil:
	// the system's roots.
	TLS *tls.Config
	// Token is a ready-made authentication token, in place of a user and a
	// password; it takes precedence over the URL's.
	Token string
}

// Schemes implements backend.Driver.
func (Driver) Schemes() []string { return []string{"etcd", "etcd+tls"} }

// Open implements backend.Driver. With a user it asks the cluster for a token,
// else it does no I/O. Errors: backend.ErrInvalid, and with a user
// backend.ErrPermission and backend.ErrUnavailable.
func (d Driver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	o := d.Options
	o.Root = u.Root()
	p := u.Params()
	o.Meta = p.String("meta", o.Meta)
	o.DialTimeout = p.Duration("dial_timeout", o.DialTimeout)
	o.ClockSkew = p.Duration("clock_skew", o.ClockSkew)
	o.WatchBuffer = p.Int("watch_buffer", o.WatchBuffer)
	o.MaxRequestBytes = p.Int("max_request_bytes", o.MaxRequestBytes)
	token := p.String("token", "")
	if d.Token != "" {
		token = d.Token
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	switch {
	case (u.User == "") != (u.Password == ""):
		return nil, fmt.Errorf("%w: URL: a user and a password come together; a client certificate needs neither", backend.ErrInvalid)
	case u.User != "" && token != "":
		return nil, fmt.Errorf("%w: URL: a user and a token exclude each other", backend.ErrInvalid)
	}
	return d.open(ctx, o, u, token)
}

func (d Driver) open(ctx context.Context, o Options, u backend.URL, token string) (backend.Store, error) {
	dialTimeout := o.DialTimeout
	if dialTimeout <= 0 {
		dialTimeout = defaultDialTimeout
	}
	// The client lives as long as the context that it is given. Until it is
	// made that is ctx, and from then on none that ends.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	conf := clientv3.Config{
		Context:     life,
		Username:    u.User,
		Password:    u.Password,
		Token:       token,
		DialTimeout: dialTimeout,
		// A connection that died without a word is found out in 15 s, idle
		// watches included. Servers refuse more than one ping in 5 s.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(), // the default prints
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: dialTimeout,
		})},
	}
	scheme := "http://"
	if u.Scheme == "etcd+tls" || d.TLS != nil {
		scheme = "https://"
		conf.TLS = &tls.Config{}
		if d.TLS != nil {
			conf.TLS = d.TLS.Clone()
		}
	}
	for _, host := range u.HostPorts("127.0.0.1", "2379") {
		conf.Endpoints = append(conf.Endpoints, scheme+host)
	}
	client, err := clientv3.New(conf)
	if !stop() {
		if err == nil {
			_ = client.Close() // the caller is gone
		}
		cancel()
		return nil, backend.ContextError(ctx)
	}
	if err != nil {
		cancel()
		sentinel, _ := classify(err)
		return nil, backend.Because(sentinel, err)
	}
	s := New(client, o)
	s.leave = func() error {
		defer cancel()
		return client.Close()
	}
	if s.bad != nil {
		_ = s.Close() // bad says what is wrong
		return nil, s.bad
	}
	return s, nil
}
