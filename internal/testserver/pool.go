package testserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// A Pool holds the servers that the tests of one package share. The zero value is ready for use. TestMain hands M's
// result to goleak or calls its Run, which stops the servers at the end.
type Pool struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	once   sync.Once
	server *Server
	err    error
}

// Shared returns the server that tests with an equal spec share, starting it if the test is the first. The environment
// may name a running server in its place if spec asks for nothing beyond the default configuration. Where the server
// cannot be run, the test is skipped with the reason, or fails if KV_TEST_REQUIRE names the store.
//
// Other tests use the server before, after and at the same time: use keys of your own (UniqueName) and count nothing
// that they could have changed. Kill, Stop, Pause, Resume and Restart are refused.
func (p *Pool) Shared(t testing.TB, spec Spec) *Server {
	t.Helper()
	refuseShort(t, spec.Store)
	e := p.entry(spec.key())
	e.once.Do(func() {
		// Not the test's context: the server outlives the test.
		if e.server, e.err = share(context.Background(), spec); e.err == nil {
			fmt.Fprintf(os.Stderr, "testserver: using %v at %v\n", e.server, e.server.addrs)
		}
	})
	resolve(t, spec.Store, e.err)
	return e.server
}

func (p *Pool) entry(key string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		p.entries = make(map[string]*entry)
	}
	if p.entries[key] == nil {
		p.entries[key] = new(entry)
	}
	return p.entries[key]
}

func share(ctx context.Context, spec Spec) (*Server, error) {
	if spec.plain() {
		if s, ok, err := given(ctx, spec.Store); ok {
			return s, err
		}
	}
	s, err := Launch(ctx, spec)
	if err == nil {
		s.shared = true
	}
	return s, err
}

// Close stops the servers. It must not run beside Shared.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, e := range p.entries {
		if e.server != nil {
			errs = append(errs, e.server.Close())
		}
	}
	p.entries = nil
	return errors.Join(errs...)
}

// M returns m with the pool's servers stopped at the end of its Run. The result is what goleak.VerifyTestMain takes.
func (p *Pool) M(m *testing.M) Runner { return Runner{m, p} }

// A Runner runs the tests of a package and closes its pool.
type Runner struct {
	m    *testing.M
	pool *Pool
}

// Run runs the tests, stops the servers and returns the exit code.
func (r Runner) Run() int {
	code := r.m.Run()
	if err := r.pool.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// Start runs a server for one test, which may kill and restart it, and closes it at the test's end. If the test has
// failed by then, it logs the end of what the server wrote. Where the server cannot be run, the test is skipped with the
// reason, or fails if KV_TEST_REQUIRE names the store. The environment's running servers are never used.
func Start(t testing.TB, spec Spec) *Server {
	t.Helper()
	refuseShort(t, spec.Store)
	s, err := Launch(t.Context(), spec)
	return s.forTest(t, spec, err)
}

// StartVersion is Start with another version of the server, as InstallVersion gets it.
func StartVersion(t testing.TB, spec Spec, version string) *Server {
	t.Helper()
	refuseShort(t, spec.Store)
	argv, err := InstallVersion(t.Context(), spec.Store, version)
	var s *Server
	if err == nil {
		s, err = LaunchCommand(t.Context(), spec, argv)
	}
	return s.forTest(t, spec, err)
}

// forTest leaves a server that has been launched to a test.
func (s *Server) forTest(t testing.TB, spec Spec, err error) *Server {
	t.Helper()
	resolve(t, spec.Store, err)
	t.Logf("testserver: using %v at %v", s, s.addrs)
	t.Cleanup(func() {
		if t.Failed() {
			for i := range s.nodes {
				t.Logf("log of %s, node %d, ends:\n%s", s.store, i, s.Log(i))
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func refuseShort(t testing.TB, store Store) {
	t.Helper()
	if !testing.Short() {
		return
	}
	if must, err := Required(store); err == nil && !must {
		t.Skipf("not run on %s: -short", store)
	}
}

// resolve ends a test that cannot have its server.
func resolve(t testing.TB, store Store, err error) {
	t.Helper()
	must, reqErr := Required(store)
	if reqErr != nil {
		t.Fatal(reqErr)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable) && !must:
		t.Skipf("not run on %s: %v", store, err)
	default:
		t.Fatalf("cannot run on %s: %v", store, err)
	}
}

// UniqueName returns a key segment that no other test and no earlier run has used: the test's name and a random part, of
// lower-case letters, digits and dashes.
func UniqueName(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name()))
	return name + "-" + strings.ToLower(rand.Text()[:10])
}

// Goroutine is the name of the function that waits for a server process, for goleak.IgnoreAnyFunction in tests that look
// for leaks while a shared server runs.
const Goroutine = "github.com/polykv/kv/internal/testserver.(*process).run"

// ProxyGoroutines are those of the functions that serve the connections of a Proxy.
func ProxyGoroutines() []string {
	const conn = "github.com/polykv/kv/internal/testserver.(*proxyConn)."
	return []string{conn + "run", conn + "pump"}
}
