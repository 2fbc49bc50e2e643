package kv

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

// Drivers opens stores by URL. It is a value that the program makes of the
// drivers that it imports, each with what a URL cannot carry:
//
//	drivers := kv.Drivers{etcdkv.Driver{TLS: conf}, boltkv.Driver{}}
//	s, err := drivers.Open(ctx, "etcd://h1:2379,h2:2379/shop")
type Drivers []backend.Driver

// Open opens the store that rawURL names: scheme://user:password@host,host/root
// and the driver's parameters. ctx bounds the call only. Drivers of network
// stores connect with the first call: Ping tells whether the server is there
// and takes the credentials. The path is the
// store's native root: "/demo" is the root demo, and "//demo" is /demo, with
// the slash that some programs write before their keys.
//
// Errors: ErrInvalid for a URL that is malformed, of an unknown scheme, or
// with a parameter that the driver does not know; else the driver's. No error
// shows the password.
func (d Drivers) Open(ctx context.Context, rawURL string, opts ...Option) (*Store, error) {
	contexts.Require(ctx)
	u, err := backend.ParseURL(rawURL)
	if err != nil {
		return nil, &Error{Op: OpOpen, Err: err}
	}
	var known []string
	for _, driver := range d {
		schemes := driver.Schemes()
		if !slices.Contains(schemes, u.Scheme) {
			known = append(known, schemes...)
			continue
		}
		b, err := driver.Open(ctx, u)
		if err != nil {
			return nil, &Error{Op: OpOpen, Store: u.Scheme, Err: err}
		}
		s := New(b, opts...)
		if s.bad != nil {
			err := s.check(OpOpen)
			s.Close()
			return nil, err
		}
		return s, nil
	}
	slices.Sort(known)
	return nil, &Error{Op: OpOpen, Err: fmt.Errorf("%w: no driver for %q; there are: %s", ErrInvalid, u.Scheme, strings.Join(known, ", "))}
}
