package integration

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// reads are the calls of everyCall that change nothing: without an answer they can only be ErrUnavailable, while a write
// that may have left the machine is ErrUncertain.
var reads = map[string]bool{"ping": true, "get": true, "exists": true, "get many": true, "list": true, "watch": true, "watch key": true}

// TestUnreachable makes every call, without a deadline, on a server that is not there: ErrUnavailable (or, of a write that
// may have been sent, ErrUncertain) once the dial timeout of the URL is over, and not long after.
func TestUnreachable(t *testing.T) {
	const dial, slack = time.Second, 2500 * time.Millisecond // the machine is shared
	for _, store := range testserver.Stores() {
		for name, server := range map[string]func(t *testing.T) (addr string){
			"closed port":            closedPort,
			"port that says nothing": func(t *testing.T) string { return stalled(t, servers.Shared(t, testserver.Spec{Store: store})) },
		} {
			t.Run(string(store)+"/"+name, func(t *testing.T) {
				who := testserver.Credentials{}
				rawURL := storeURL(server(t), store, "root", who, url.Values{dialTimeout[store]: {dial.String()}})
				start, stalls := time.Now(), pace.Watch(t)
				s, err := openURL(t, drivers, rawURL)
				if err != nil {
					// A driver may already look for the server in Open.
					if took := time.Since(start); !errors.Is(err, kv.ErrUnavailable) || took > dial+slack+stalls.Since(start) {
						t.Errorf("open: %v after %v", err, took)
					}
					checkError(t, "open", err)
					return
				}
				var wg sync.WaitGroup
				for op, do := range everyCall {
					wg.Go(func() {
						start := time.Now()
						err := do(context.WithoutCancel(t.Context()), s)
						if took := time.Since(start); took > dial+slack+stalls.Since(start) {
							t.Errorf("%s took %v", op, took)
						}
						if !errors.Is(err, kv.ErrUnavailable) && (reads[op] || !errors.Is(err, kv.ErrUncertain)) {
							t.Errorf("%s: %v, want %v", op, err, kv.ErrUnavailable)
						}
						if errors.Is(err, kv.ErrUnavailable) && errors.Is(err, kv.ErrUncertain) { // applied by no means, and perhaps
							t.Errorf("%s: %v is both %v and %v", op, err, kv.ErrUnavailable, kv.ErrUncertain)
						}
						checkError(t, op, err)
					})
				}
				wg.Wait()
			})
		}
	}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// stalled returns an address that accepts connections to srv and passes no byte on.
func stalled(t *testing.T, srv *testserver.Server) string {
	p := testserver.NewProxy(t, srv.Addrs()[0])
	p.Stall()
	return p.Addr()
}

// TestStalledServerRecovers cuts a store off in the middle of its life: the call in between fails in time, nothing that
// was written is lost, and the store works again when the network does, with the same handle.
func TestStalledServerRecovers(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store})
			p := testserver.NewProxy(t, srv.Addrs()[0])
			s, err := openURL(t, drivers, storeURL(p.Addr(), store, testserver.UniqueName(t), testserver.Credentials{},
				url.Values{dialTimeout[store]: {"1s"}}))
			if err != nil {
				t.Fatal(err)
			}
			kept, err := s.Put(t.Context(), "kept", []byte("what was there"))
			if err != nil {
				t.Fatal(err)
			}
			p.Stall()
			pace.Best(t, time.Second+100*time.Millisecond, "get while stalled", func() time.Duration {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errWhy)
				defer cancel()
				start := time.Now()
				if _, err := s.Get(ctx, "kept"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kv.ErrUnavailable) {
					t.Errorf("get while stalled: %v", err)
				}
				return time.Since(start)
			})
			p.Resume()
			until(t, "the store works again", func() error { _, err := s.Get(t.Context(), "kept"); return err })
			unharmed(t, t.Context(), s, kept)
		})
	}
}

// TestWaitersGiveUp is R38 for those who wait for what a watch or an observer hears, which go on while the server is away:
// without a deadline they wait five seconds for it.
func TestWaitersGiveUp(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			p := testserver.NewProxy(t, servers.Shared(t, testserver.Spec{Store: store}).Addrs()[0])
			s, err := openURL(t, drivers, storeURL(p.Addr(), store, testserver.UniqueName(t), testserver.Credentials{},
				url.Values{dialTimeout[store]: {"1s"}}))
			if err != nil {
				t.Fatal(err)
			}
			w, err := s.Watch(t.Context(), "d")
			if err != nil {
				t.Fatal(err)
			}
			var reading sync.WaitGroup
			reading.Go(func() {
				for range w.Events() {
				}
			})
			defer reading.Wait()
			defer w.Close()
			p.Refuse(true)
			p.Cut()
			stalls := pace.Watch(t)
			var calls sync.WaitGroup
			defer calls.Wait()
			for op, wait := range map[string]func(context.Context) error{
				"sync":   w.Sync,
				"leader": func(ctx context.Context) error { _, err := lock.NewElection(s, "e").Leader(ctx); return err },
			} {
				calls.Go(func() {
					start := time.Now()
					err := wait(context.WithoutCancel(t.Context()))
					if took := time.Since(start); !errors.Is(err, kv.ErrUnavailable) || took > 15*time.Second+stalls.Since(start) {
						t.Errorf("%s: %v after %v, want %v", op, err, took, kv.ErrUnavailable)
					} else {
						t.Logf("%s: %v", op, took)
					}
					checkError(t, op, err)
				})
			}
		})
	}
}

// until waits for f to succeed.
func until(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// TestBadURL opens what cannot be opened: ErrInvalid before any I/O, and no password in the error.
func TestBadURL(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":                   "",
		"no scheme":                 "127.0.0.1:2379/root",
		"an unknown scheme":         "postgres://me:s3cret@127.0.0.1/root",
		"an unknown parameter":      "STORE://me:s3cret@127.0.0.1/root?colour=s3cret",
		"a duration that is none":   "STORE://me:s3cret@127.0.0.1/root?TIMEOUT=s3cret",
		"a malformed host":          "STORE://me:s3cret@[::1/root",
		"a port that is no number":  "STORE://me:s3cret@127.0.0.1:s3cret/root",
		"a port that is too large":  "STORE://me:s3cret@127.0.0.1:70000/root",
		"a malformed escape":        "STORE://me:s3cret%zz@127.0.0.1/root",
		"a malformed path":          "STORE://me:s3cret@127.0.0.1/ro%zzot",
		"a malformed query":         "STORE://me:s3cret@127.0.0.1/root?a=%zz",
		"a control character":       "STORE://me:s3cret@127.0.0.1/ro\not",
		"a root with NUL":           "STORE://me:s3cret@127.0.0.1/ro%00ot",
		"a password with a slash":   "STORE://me:s3cret/s3cret@127.0.0.1/root",
		"a password with a bracket": "STORE://me:s3cret[@127.0.0.1:x/root",
	} {
		stores := testserver.Stores()
		if !strings.Contains(raw, "STORE") {
			stores = stores[:1]
		}
		for _, store := range stores {
			raw := strings.NewReplacer("STORE", string(store), "TIMEOUT", dialTimeout[store]).Replace(raw)
			s, err := openURL(t, drivers, raw)
			if err == nil {
				// What a driver can only tell when it is used is told by the first call.
				err = s.Ping(t.Context())
			}
			if !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("%s on %s: %v, want %v", name, store, err, kv.ErrInvalid)
			}
			checkError(t, name+" on "+string(store), err)
		}
	}
}
