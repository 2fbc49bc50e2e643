package testserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within bounds every wait of these tests; all of them end as soon as their condition holds.
const within = 20 * time.Second

func probeOnce(t *testing.T, s *Server) error {
	t.Helper()
	_, err := s.nodes[0].probe(t.Context())
	return err
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	Eventually(t, within, what, cond)
}

func refuses(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestLife(t *testing.T) {
	version := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	for _, store := range Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Spec{Store: store})
			addr := s.Addrs()[0]
			if !version.MatchString(s.Version()) || s.Store() != store || s.Provider() != "local" {
				t.Errorf("server describes itself as %v", s)
			}
			if want := string(store) + "://" + addr; s.URL() != want {
				t.Errorf("URL is %q, want %q", s.URL(), want)
			}

			// Paused: the kernel still accepts connections, nobody answers.
			if err := s.Pause(0); err != nil {
				t.Fatal(err)
			}
			var timeout net.Error
			if err := probeOnce(t, s); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("probe of a paused server: %v, want a time-out", err)
			}
			if err := s.Resume(0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a resumed server answers", func() bool { return probeOnce(t, s) == nil })

			// Killed, twice over, also while paused.
			if err := s.Pause(0); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Kill(0); err != nil {
					t.Fatal(err)
				}
			}
			if !refuses(addr) {
				t.Error("killed, and something still listens")
			}
			if err := s.Pause(0); !errors.Is(err, errNotRunning) {
				t.Errorf("pausing a killed server: %v", err)
			}

			// Back at the same address, then stopped in order and back again.
			for range 2 {
				if err := s.Restart(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				if err := probeOnce(t, s); err != nil {
					t.Errorf("probe after a restart: %v; the log ends:\n%s", err, s.Log(0))
				}
			}
			if err := s.Stop(t.Context(), 0); err != nil {
				t.Error(err)
			}
			if !refuses(addr) {
				t.Error("stopped, and something still listens")
			}

			for range 2 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(s.dir.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("data is left behind: %v", err)
			}
		})
	}
}

func TestDataSurvivesKill(t *testing.T) {
	tests := []struct {
		spec  Spec
		write func(t *testing.T, addr string)
		held  func(t *testing.T, addr string) bool
	}{
		{Spec{Store: Etcd}, func(t *testing.T, addr string) {
			post(t, http.MethodPost, "http://"+addr+"/v3/kv/put", `{"key":"a2V5","value":"dmFsdWU="}`)
		}, func(t *testing.T, addr string) bool {
			return strings.Contains(post(t, http.MethodPost, "http://"+addr+"/v3/kv/range", `{"key":"a2V5"}`), "dmFsdWU=")
		}},
		{Spec{Store: Consul}, func(t *testing.T, addr string) {
			post(t, http.MethodPut, "http://"+addr+"/v1/kv/key", "value")
		}, func(t *testing.T, addr string) bool {
			return post(t, http.MethodGet, "http://"+addr+"/v1/kv/key?raw", "") == "value"
		}},
		{Spec{Store: ZooKeeper}, openZooKeeperSession, func(t *testing.T, addr string) bool {
			answer := askOK(t, addr, "srvr")
			return strings.Contains(answer, "Zxid: 0x") && !strings.Contains(answer, "Zxid: 0x0\n")
		}},
		{Spec{Store: Redis, Persist: true}, func(t *testing.T, addr string) {
			askOK(t, addr, "SET key value\r\nQUIT\r\n")
		}, func(t *testing.T, addr string) bool {
			return strings.Contains(askOK(t, addr, "GET key\r\nQUIT\r\n"), "value")
		}},
	}
	for _, test := range tests {
		t.Run(string(test.spec.Store), func(t *testing.T) {
			t.Parallel()
			s := Start(t, test.spec)
			addr := s.Addrs()[0]
			if test.held(t, addr) {
				t.Fatal("a new server holds data")
			}
			test.write(t, addr)
			if err := s.Kill(0); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if !test.held(t, addr) {
				t.Error("the write is gone")
			}
		})
	}
}

// A ZooKeeper that is killed when it has just begun a log finds the file empty, on which it would not start.
func TestZooKeeperStartsOnEmptyLog(t *testing.T) {
	skipWithout(t, ZooKeeper)
	s := Start(t, Spec{Store: ZooKeeper})
	openZooKeeperSession(t, s.Addrs()[0])
	if err := s.Kill(0); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(s.nodes[0].dir, "data", "version-2", "log.ffff")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// Without Persist a killed Redis forgets: tests of DurableFence rely on it.
func TestRedisForgetsByDefault(t *testing.T) {
	s := Start(t, Spec{Store: Redis})
	addr := s.Addrs()[0]
	askOK(t, addr, "SET key value\r\nQUIT\r\n")
	if err := s.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := askOK(t, addr, "GET key\r\nQUIT\r\n"); !strings.HasPrefix(got, "$-1\r\n") {
		t.Errorf("GET after a kill answers %q", got)
	}
}

func TestConfigReachesServer(t *testing.T) {
	s := Start(t, Spec{Store: Redis, Config: []string{"notify-keyspace-events KA"}})
	got := askOK(t, s.Addrs()[0], "CONFIG GET notify-keyspace-events\r\nQUIT\r\n")
	if !strings.Contains(got, "\r\nAK\r\n") {
		t.Errorf("CONFIG GET answers %q", got)
	}
}

func TestStartReportsWhyServerExits(t *testing.T) {
	skipWithout(t, Redis)
	_, err := Launch(t.Context(), Spec{Store: Redis, Config: []string{"no-such-setting yes"}})
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("got %v, want the server's complaint", err)
	}
}

func TestLaunchHonoursContext(t *testing.T) {
	skipWithout(t, Consul)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	began := time.Now()
	// It waits for a second server that never comes.
	_, err := Launch(ctx, Spec{Store: Consul, Config: []string{"bootstrap_expect = 3"}})
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	if took := time.Since(began); took > within {
		t.Errorf("took %v to notice", took)
	}
}

// skipWithout is for tests that call Launch themselves.
func skipWithout(t *testing.T, store Store) {
	t.Helper()
	refuseShort(t, store)
	_, err := Install(t.Context(), store)
	if err == nil {
		err = localAllowed()
	}
	resolve(t, store, err)
}

func post(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func askOK(t *testing.T, addr, request string) string {
	t.Helper()
	answer, err := new(cluster).ask(t.Context(), addr, request)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// openZooKeeperSession writes the one thing that takes no more than a connect request: a session.
func openZooKeeperSession(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b bytes.Buffer
	for _, field := range []any{
		int32(44),    // length of what follows
		int32(0),     // protocol version
		int64(0),     // last zxid seen
		int32(30000), // session timeout in ms
		int64(0),     // session: a new one
		int32(16), [16]byte{},
	} {
		if err := binary.Write(&b, binary.BigEndian, field); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	var answer [20]byte // length, version, timeout, session
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		t.Fatal(err)
	}
	if session := binary.BigEndian.Uint64(answer[12:]); session == 0 {
		t.Fatal(fmt.Errorf("no session: % x", answer))
	}
}
