package rediskv_test

import (
	"context"
	"errors"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }

// counter counts requests.
type counter struct{ n atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.n.Add(1); return next(ctx, cmd) }
}
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.n.Add(int64(len(cmds))); return next(ctx, cmds) }
}

// wires are the connections of clients, which a test may cut.
type wires struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (ws *wires) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.conns == nil {
		ws.conns = map[net.Conn]struct{}{}
	}
	ws.conns[conn] = struct{}{}
	return conn, nil
}

func (ws *wires) cut() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for conn := range ws.conns {
		conn.Close()
	}
	clear(ws.conns)
}

func newClient(t testing.TB, srv *testserver.Server) *redis.Client {
	return dialing(t, srv, &redis.Options{})
}

func dialing(t testing.TB, srv *testserver.Server, o *redis.Options) *redis.Client {
	o.Addr = srv.Addrs()[0]
	client := redis.NewClient(o)
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	return client
}

// foreign is another program, as redis-cli would be one.
type foreign struct {
	client *redis.Client
	root   string
}

func (f foreign) Put(ctx context.Context, key string, value []byte) error {
	return f.client.Set(ctx, f.root+"/"+key, value, 0).Err()
}

func (f foreign) Get(ctx context.Context, key string) ([]byte, bool, error) {
	v, err := f.client.Get(ctx, f.root+"/"+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	return v, err == nil, err
}

func (f foreign) Delete(ctx context.Context, key string) error {
	return f.client.Del(ctx, f.root+"/"+key).Err()
}

func (f foreign) PutName(ctx context.Context, name string, value []byte) error {
	return f.client.Set(ctx, f.root+"/"+name, value, 0).Err()
}

func TestConformance(t *testing.T) { conformance(t, false) }

func TestConformanceWithDialer(t *testing.T) { conformance(t, true) }

// conformance is the suite with faults.
func conformance(t *testing.T, dialer bool) {
	// The suite kills the server. With the default appendfsync, everysec, that loses up to two seconds of acknowledged
	// writes: while an fsync takes its time, Redis keeps what it should write to the file in its own memory.
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Persist: true, Config: []string{"appendfsync always"}})
	h, wires := harness(srv, dialer)
	h.Restart = func(t testing.TB) {
		if err := srv.Kill(0); err != nil {
			t.Fatal(err)
		}
		if err := srv.Restart(context.WithoutCancel(t.Context()), 0); err != nil {
			t.Fatal(err)
		}
	}
	h.Break = func(testing.TB) { wires.cut() }
	h.Pause = func(t testing.TB) func() {
		if err := srv.Pause(0); err != nil {
			t.Fatal(err)
		}
		resume := sync.OnceFunc(func() {
			if err := srv.Resume(0); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(resume)
		return resume
	}
	backendtest.Run(t, h)
}

// TestConformanceInMemory is the suite on a server in its default configuration. It leaves nothing there but the roots
// that were asked for and the bookkeeping beside them, so it can run again.
func TestConformanceInMemory(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	admin := newClient(t, srv)
	before := names(t, admin)
	h, _ := harness(srv, true)
	var mu sync.Mutex
	var roots []string
	open := h.Open
	h.Open = func(t testing.TB, root string) backend.Store {
		mu.Lock()
		defer mu.Unlock()
		roots = append(roots, root)
		return open(t, root)
	}
	backendtest.Run(t, h)

	bookkeeping := regexp.MustCompile("(?s)^=kv/(head|log|keys|expiries|key/.+|lock/(queue|contenders|deadlines)/.+)$")
	after := names(t, admin)
	for name := range after {
		if before[name] {
			continue
		}
		i := slices.IndexFunc(roots, func(root string) bool {
			return strings.HasPrefix(name, root+"/") || strings.HasPrefix(name, root+"=kv/")
		})
		if i < 0 {
			t.Errorf("%q is left", name)
			continue
		}
		rest := strings.TrimPrefix(name, roots[i])
		if rest[0] == '=' && !bookkeeping.MatchString(rest) {
			t.Errorf("%q is left beside a root", name)
		}
		// What is left of a lock goes by itself, since nobody may come again.
		if strings.HasPrefix(rest, "=kv/lock/") && admin.PTTL(t.Context(), name).Val() < 0 && admin.Exists(t.Context(), name).Val() == 1 {
			t.Errorf("%q never goes", name)
		}
		// A record goes with its key.
		if key, ok := strings.CutPrefix(rest, "=kv/key/"); ok && !after[roots[i]+"/"+key] {
			score, err := admin.ZScore(t.Context(), roots[i]+"=kv/expiries", key).Result()
			if err != nil || time.UnixMilli(int64(score)).After(time.Now()) {
				t.Errorf("the record of %q is left without it", key)
			}
		}
	}
	eventually(t, "every connection of the suite is closed", func() bool {
		return strings.Count(admin.ClientList(t.Context()).Val(), "\n") == 1
	})
	if channels := admin.PubSubChannels(t.Context(), "*").Val(); len(channels) > 0 {
		t.Errorf("somebody still listens to %q", channels)
	}
	t.Logf("%d names before, %d after", len(before), len(after))
}

func names(t *testing.T, c *redis.Client) map[string]bool {
	found := map[string]bool{}
	for iter := c.Scan(t.Context(), 0, "*", 10_000).Iterator(); iter.Next(t.Context()); {
		found[iter.Val()] = true
	}
	return found
}

// TestConformanceWithNotifications is the suite on a server that tells what other programs do (R26).
func TestConformanceWithNotifications(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: []string{"notify-keyspace-events KA"}})
	h, _ := harness(srv, false)
	backendtest.Run(t, h)
}

// harness reaches srv with a Dialer or without, which makes the driver work in two ways.
func harness(srv *testserver.Server, dialer bool) (backendtest.Harness, *wires) {
	var requests counter
	var wires wires
	return backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			o, ro := rediskv.Options{Root: root}, &redis.Options{Dialer: wires.dial}
			if dialer {
				o.Dialer = rediskv.NewDialer(wires.dial)
				ro.Dialer, ro.ContextTimeoutEnabled = o.Dialer.Dial, true
			}
			client := dialing(t, srv, ro)
			client.AddHook(&requests)
			return rediskv.New(client, o)
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			return foreign{newClient(t, srv), root}
		},
		Requests: requests.n.Load,
		Leaks:    []goleak.Option{goleak.IgnoreAnyFunction("github.com/polykv/kv/internal/testserver.(*process).run")},
	}, &wires
}
