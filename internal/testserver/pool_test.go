package testserver

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// outcome is a test that is watched instead of run.
type outcome struct {
	testing.TB
	verdict, message string
}

func (o *outcome) end(verdict, message string) {
	o.verdict, o.message = verdict, message
	panic(o)
}

func (o *outcome) Skipf(f string, args ...any)  { o.end("skip", fmt.Sprintf(f, args...)) }
func (o *outcome) Fatalf(f string, args ...any) { o.end("fail", fmt.Sprintf(f, args...)) }
func (o *outcome) Fatal(args ...any)            { o.end("fail", fmt.Sprint(args...)) }

// verdict tells how f ends the test it is given: "pass", "skip" or "fail".
func verdict(t *testing.T, f func(t testing.TB)) (verdict, message string) {
	o := &outcome{TB: t, verdict: "pass"}
	defer func() {
		if r := recover(); r != nil && r != any(o) {
			panic(r)
		}
		verdict, message = o.verdict, o.message
	}()
	f(o)
	return
}

func TestSharedStartsOnce(t *testing.T) {
	var pool Pool
	var wg sync.WaitGroup
	servers := make([]*Server, 4)
	skipWithout(t, Redis)
	for i := range servers {
		wg.Go(func() { servers[i] = pool.Shared(t, Spec{Store: Redis}) })
	}
	wg.Wait()
	for _, s := range servers {
		if s != servers[0] {
			t.Error("a second server was started")
		}
	}
	s := servers[0]
	if err := s.Kill(0); err == nil {
		t.Error("one test could kill the others' server")
	}
	if other := pool.Shared(t, Spec{Store: Redis, Persist: true}); other == s {
		t.Error("a spec got another one's server")
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if !refuses(s.Addrs()[0]) {
		t.Error("the server outlives its pool")
	}
}

func TestEnvironmentNamesServer(t *testing.T) {
	s := Start(t, Spec{Store: Redis})
	url := "redis://user:secret@" + s.Addrs()[0] + ",127.0.0.1:1/0"
	t.Setenv("KV_TEST_REDIS_URL", url)
	var pool Pool
	got := pool.Shared(t, Spec{Store: Redis})
	if got.URL() != url || got.Provider() != "environment" || got.Addrs()[0] != s.Addrs()[0] || len(got.Addrs()) != 2 {
		t.Errorf("got %v, %s at %v", got, got.URL(), got.Addrs())
	}
	if strings.Contains(got.String(), "secret") {
		t.Errorf("%v shows the password", got)
	}
	// It is another's: not touched, and not used for anything but the default configuration.
	if err := got.Kill(0); err == nil {
		t.Error("killed a server of the environment")
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if err := probeOnce(t, s); err != nil {
		t.Errorf("after the pool was closed: %v", err)
	}

	if err := s.Kill(0); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KV_TEST_REDIS_URL", "redis://user:secret@"+s.Addrs()[0])
	got2, message := verdict(t, func(t testing.TB) { new(Pool).Shared(t, Spec{Store: Redis}) })
	if got2 != "fail" || !strings.Contains(message, "KV_TEST_REDIS_URL") || strings.Contains(message, "secret") {
		t.Errorf("dead server: %s, %q", got2, message)
	}
}

func TestSkipOrFail(t *testing.T) {
	tests := []struct {
		provider, require string
		want, says        string
	}{
		{"none", "", "skip", "KV_TEST_PROVIDER is none"},
		{"none", "redis", "skip", "not run on etcd"},
		{"none", "redis, etcd", "fail", "cannot run on etcd"},
		{"none", "all", "fail", "cannot run on etcd"},
		{"containers", "bolt,memory", "skip", "KV_TEST_<STORE>_URL"},
		{"docker", "", "fail", "want auto, local, containers or none"},
		{"none", "etdc", "fail", `"etdc"`},
	}
	for _, test := range tests {
		t.Run(test.provider+" "+test.require, func(t *testing.T) {
			t.Setenv("KV_TEST_PROVIDER", test.provider)
			t.Setenv("KV_TEST_REQUIRE", test.require)
			t.Setenv("KV_TEST_ETCD_URL", "")
			_, err := Launch(t.Context(), Spec{Store: Etcd})
			got, message := verdict(t, func(t testing.TB) { resolve(t, Etcd, err) })
			if got != test.want || !strings.Contains(message, test.says) {
				t.Errorf("%s, %q; want %s and a word of %q", got, message, test.want, test.says)
			}
		})
	}
}

// A server that fails to start where it could run is never a skip.
func TestBrokenServerIsFailure(t *testing.T) {
	got, _ := verdict(t, func(t testing.TB) { resolve(t, Etcd, errors.New("exit status 1")) })
	if got != "fail" {
		t.Errorf("got %s", got)
	}
}

func TestBadSpec(t *testing.T) {
	for _, spec := range []Spec{{}, {Store: "mysql"}, {Store: Redis, Nodes: 3}, {Store: Etcd, Nodes: -1},
		{Store: Etcd, Cluster: true}, {Store: Redis, Cluster: true, Sentinel: true}, {Store: Redis, Sentinel: true, TLS: true},
		{Store: Redis, Config: []string{"save\nport 1"}},
	} {
		if _, err := Launch(t.Context(), spec); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

func TestUniqueName(t *testing.T) {
	t.Run("Mixed Case/ü", func(t *testing.T) {
		a, b := UniqueName(t), UniqueName(t)
		if a == b || !strings.HasPrefix(a, "testuniquename-mixed-case---") {
			t.Errorf("names are %q and %q", a, b)
		}
	})
}
