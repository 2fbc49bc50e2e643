package zookeeperkv

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// Driver opens stores at URLs:
//
//	zookeeper://[user:password@]host[:2181][,host…][/root][?parameters]
//	zk://…
//
// The user and password are for ZooKeeper's digest scheme. The path is the root, in the sense of Options.Root.
//
//	session=10s          the session timeout to ask for, and the shortest lease of a lock
//	acl=creator          what new nodes permit: "creator" (everything to the user of the URL, nothing to others; the
//	                     default with a user), "creator-read" (and reading to everybody), "open" (everything to everybody)
//	meta=/demo=kv        the node of the bookkeeping
//	tls=true             TLS to the servers' secure port, by Driver.TLS or the system's certificates
//	max_request=1048575  the servers' jute.maxbuffer, in bytes
//	dial_timeout=5s      as Options.DialTimeout
//	clock_skew=500ms     as Options.ClockSkew
//
// What stands in the URL wins over Options.
type Driver struct {
	Options
	// TLS is for connections to a secure port; setting it implies tls=true.
	TLS *tls.Config
	// Dial replaces the dialer of package net, below TLS.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

var _ backend.Driver = Driver{}

// Schemes implements backend.Driver.
func (Driver) Schemes() []string { return []string{"zookeeper", "zk"} }

// Open implements backend.Driver. It does no I/O.
func (d Driver) Open(_ context.Context, u backend.URL) (backend.Store, error) {
	s, err := d.open(u)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d Driver) open(u backend.URL) (*Store, error) {
	o := d.Options
	if root := u.Root(); root != "" {
		o.Root = root
	}
	p := u.Params()
	o.SessionTimeout = p.Duration("session", o.SessionTimeout)
	o.DialTimeout = p.Duration("dial_timeout", o.DialTimeout)
	o.ClockSkew = p.Duration("clock_skew", o.ClockSkew)
	o.MaxRequest = p.Int("max_request", o.MaxRequest)
	o.Meta = p.String("meta", o.Meta)
	secure := p.Bool("tls", d.TLS != nil)
	acl := p.String("acl", "")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if (u.User == "") != (u.Password == "") {
		return nil, fmt.Errorf("%w: ZooKeeper's digest scheme wants a user and a password", backend.ErrInvalid)
	}
	if strings.Contains(u.User, ":") {
		return nil, fmt.Errorf("%w: a user of ZooKeeper's digest scheme has no colon", backend.ErrInvalid)
	}
	if err := setACL(&o, acl, u.User != ""); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	dl := &dialer{hosts: u.HostPorts("127.0.0.1", "2181"), dial: d.dial(secure), o: o}
	if u.User != "" {
		dl.creds = []credential{{"digest", []byte(u.User + ":" + u.Password)}}
	}
	l, err := dl.open(o.SessionTimeout)
	if err != nil {
		return nil, err
	}
	s := newStore(l, o)
	s.owned, s.dialer = true, dl
	if s.bad != nil {
		err := s.bad
		s.Close()
		return nil, err
	}
	return s, nil
}

// setACL follows the parameter acl. An ACL in the options stays unless the URL has another.
func setACL(o *Options, name string, user bool) error {
	if name == "" {
		if o.ACL != nil || !user {
			return nil
		}
		name = "creator"
	}
	if strings.HasPrefix(name, "creator") && !user {
		return fmt.Errorf("%w: acl=%s wants a user in the URL", backend.ErrInvalid, name)
	}
	switch name {
	case "creator":
		o.ACL = zk.AuthACL(zk.PermAll)
	case "creator-read":
		o.ACL = append(zk.AuthACL(zk.PermAll), zk.WorldACL(zk.PermRead)...)
	case "open":
		o.ACL = zk.WorldACL(zk.PermAll)
	default:
		return fmt.Errorf("%w: URL parameter \"acl\" is not creator, creator-read or open", backend.ErrInvalid)
	}
	return nil
}

// dial returns the dialer for one server.
func (d Driver) dial(secure bool) dialFunc {
	plain := d.Dial
	if plain == nil {
		plain = new(net.Dialer).DialContext
	}
	if !secure {
		return plain
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := plain(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conf := d.TLS.Clone() // nil stays nil
		if conf == nil {
			conf = &tls.Config{}
		}
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(address)
		}
		t := tls.Client(c, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		return t, nil
	}
}
