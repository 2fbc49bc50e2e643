package lock

import (
	"fmt"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// DefaultLease is the lease of a lock unless Lease says otherwise.
const DefaultLease = 15 * time.Second

// Option says how to contend.
type Option interface {
	apply(backend.ContendOptions) backend.ContendOptions
}

type option func(backend.ContendOptions) backend.ContendOptions

func (f option) apply(o backend.ContendOptions) backend.ContendOptions { return f(o) }

// Lease is how long the lock outlives a holder that crashed or cannot reach
// the store; it is renewed three times in that time. Shorter ones than
// Capabilities.MinLease are raised to it, and one under a second or over what
// the store takes, 48 hours on Consul and a hundred years elsewhere, is
// kv.ErrInvalid.
func Lease(d time.Duration) Option {
	return option(func(o backend.ContendOptions) backend.ContendOptions { o.Lease = d; return o })
}

// Value is shown to observers of the lock: who holds it, for instance. One over
// Capabilities.MaxValueBytes is kv.ErrTooLarge.
func Value(v string) Option {
	return option(func(o backend.ContendOptions) backend.ContendOptions { o.Value = []byte(v); return o })
}

func contendOptions(s *kv.Store, opts []Option) (backend.ContendOptions, error) {
	o := backend.ContendOptions{Lease: DefaultLease}
	for _, opt := range opts {
		if opt != nil {
			o = opt.apply(o)
		}
	}
	if o.Lease < time.Second {
		return o, fmt.Errorf("%w: a lease of %v, at least %v", kv.ErrInvalid, o.Lease, time.Second)
	}
	if o.Lease > backend.MaxTTL {
		return o, fmt.Errorf("%w: a lease of %v, at most %v", kv.ErrInvalid, o.Lease, backend.MaxTTL)
	}
	// The driver does so too, by its own limit: kv.Portable may have another.
	o.Lease = max(o.Lease, s.Capabilities().MinLease)
	return o, checkValue(s, o.Value)
}

// checkValue refuses what the store would not take, before any I/O.
func checkValue(s *kv.Store, value []byte) error {
	if most := s.Capabilities().MaxValueBytes; len(value) > most {
		return fmt.Errorf("%w: a value of %d bytes, at most %d", kv.ErrTooLarge, len(value), most)
	}
	return nil
}
