package consulkv

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
)

// Driver opens Stores from URLs; see the package documentation for their form.
// The embedded Options hold what a URL does not say; Root is taken from the
// URL.
type Driver struct {
	Options

	// TLS is the configuration for consul+tls, and for consul as well if it
	// is set. nil: the system's roots.
	TLS *tls.Config
	// Token is the ACL token, and takes precedence over the URL's; "" also
	// allows the environment's (CONSUL_HTTP_TOKEN).
	Token string
	// HTTPClient replaces the Store's own connections; TLS is then its
	// matter. It is not closed.
	HTTPClient *http.Client
}

// Schemes implements backend.Driver.
func (Driver) Schemes() []string { return []string{"consul", "consul+tls"} }

// Open implements backend.Driver. It does no I/O. Errors: backend.ErrInvalid.
func (d Driver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	o := d.Options
	o.Root = u.Root()
	p := u.Params()
	conf := api.Config{
		Scheme:     "http",
		Datacenter: p.String("dc", ""),
		Namespace:  p.String("namespace", ""),
		Partition:  p.String("partition", ""),
		Token:      p.String("token", ""),
		HttpClient: d.HTTPClient,
	}
	o.Meta = p.String("meta", o.Meta)
	o.DialTimeout = p.Duration("dial_timeout", o.DialTimeout)
	o.ClockSkew = p.Duration("clock_skew", o.ClockSkew)
	o.WatchBuffer = p.Int("watch_buffer", o.WatchBuffer)
	if err := p.Err(); err != nil {
		return nil, err
	}
	if d.Token != "" {
		conf.Token = d.Token
	}
	if u.User != "" || u.Password != "" {
		conf.HttpAuth = &api.HttpBasicAuth{Username: u.User, Password: u.Password}
	}
	secure := u.Scheme == "consul+tls" || d.TLS != nil
	port := "8500"
	if secure {
		conf.Scheme, port = "https", "8501"
	}
	hosts := u.HostPorts("127.0.0.1", port)
	if len(hosts) != 1 {
		return nil, fmt.Errorf("%w: Consul has one address, that of the agent at hand; the URL has %d", backend.ErrInvalid, len(hosts))
	}
	conf.Address = hosts[0]
	var own *http.Transport
	if conf.HttpClient == nil {
		own = newTransport(o.withDefaults().DialTimeout)
		if secure && d.TLS != nil {
			own.TLSClientConfig = d.TLS.Clone()
		} else if secure {
			own.TLSClientConfig = &tls.Config{}
		}
		conf.HttpClient = &http.Client{Transport: own}
	}
	s := New(&conf, o)
	s.owned = own
	if s.broken != nil {
		return nil, s.broken
	}
	return s, nil
}

// newTransport is a transport of a Store's own.
func newTransport(dial time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dial, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: dial,
		MaxIdleConnsPerHost: maxInFlight,
		IdleConnTimeout:     90 * time.Second,
	}
}
