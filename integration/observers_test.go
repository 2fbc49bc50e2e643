package integration

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// TestObserversEndWithTheStore is R39 for those who observe a lock while the server is away, and try again ever less often:
// Close ends them at once, also while it tries in vain to give back a lock that the store holds.
func TestObserversEndWithTheStore(t *testing.T) {
	const (
		observers = 8 // one alone may try again just as the store closes
		outage    = 3 * time.Second
		promptly  = time.Second // they wait for up to two
	)
	end := map[string]struct {
		close   func(s *kv.Store) error
		observe func(ctx context.Context, s *kv.Store, seen func()) error
	}{
		"driver": {
			close: func(s *kv.Store) error { return s.Backend().Close() },
			observe: func(ctx context.Context, s *kv.Store, seen func()) error {
				for _, err := range s.Backend().Holders(ctx, "e") {
					if err != nil {
						return err
					}
					seen()
				}
				return nil
			},
		},
		"election": {
			close: (*kv.Store).Close,
			observe: func(ctx context.Context, s *kv.Store, seen func()) error {
				for _, err := range lock.NewElection(s, "e").Observe(ctx) {
					if err != nil {
						return err
					}
					seen()
				}
				return nil
			},
		},
	}
	t.Parallel()
	for _, store := range testserver.Stores() {
		for name, of := range end {
			t.Run(string(store)+"/"+name, func(t *testing.T) {
				t.Parallel()
				srv := servers.Shared(t, testserver.Spec{Store: store})
				p, root := testserver.NewProxy(t, srv.Addrs()[0]), testserver.UniqueName(t)
				open := func(addr string) *kv.Store {
					s, err := openURL(t, drivers, storeURL(addr, store, root, testserver.Credentials{}, url.Values{dialTimeout[store]: {"200ms"}}))
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				leader, err := lock.NewElection(open(srv.Addrs()[0]), "e").Campaign(t.Context(), "leader")
				if err != nil {
					t.Fatal(err)
				}
				defer leader.Resign(t.Context())
				s := open(p.Addr())
				if _, err := lock.Lock(t.Context(), s, "held"); err != nil {
					t.Fatal(err)
				}
				seen, ended := make(chan struct{}, observers), make(chan error, observers)
				for range observers {
					go func() { ended <- of.observe(t.Context(), s, func() { seen <- struct{}{} }) }()
				}
				for range observers {
					<-seen
				}
				p.Refuse(true)
				p.Cut()
				<-time.After(outage) // by now they wait long; if one does not, the case is weaker but right
				start, closed := time.Now(), make(chan error, 1)
				go func() { closed <- of.close(s) }()
				for range observers {
					err := <-ended
					if took := time.Since(start); took > promptly {
						t.Errorf("an observer heard of Close after %v", took)
					}
					if !errors.Is(err, kv.ErrClosed) || errors.Is(err, context.Canceled) {
						t.Errorf("an observer of a closed store: %v", err)
					}
				}
				if err := <-closed; err != nil {
					t.Error(err)
				}
			})
		}
	}
}
