package rediskv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// silent is the variable that makes TestNoPrinting go through what makes go-redis print.
const silent = "REDISKV_TEST_SILENT"

// TestNoPrinting: a store that the driver opens prints nothing (R40), whatever fails, and leaves go-redis's logger, which
// is the process's, alone.
func TestNoPrinting(t *testing.T) {
	if os.Getenv(silent) != "" {
		failures(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoPrinting$")
	cmd.Env = append(os.Environ(), silent+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	if stderr.Len() > 0 || !bytes.HasPrefix(stdout.Bytes(), []byte("PASS\n")) {
		t.Errorf("it prints\n%s%s", &stdout, &stderr)
	}
}

// failures goes through outages on every kind of server, with a watch and a lock open.
func failures(t *testing.T) {
	ctx := t.Context()
	nobody := unusedAddr(t)
	for _, raw := range []string{
		"redis://" + nobody, "rediss://" + nobody, "redis+sentinel://" + nobody, "redis+cluster://" + nobody + "/{app}",
	} {
		s, err := open(t, raw, rediskv.Driver{Options: rediskv.Options{DialTimeout: time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
				t.Errorf("%s: %v", raw, err)
			}
		}
	}
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, TLS: true})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	anonymous := srv.TLS()
	anonymous.Certificates = nil
	refuses(t, proxy, "rediss://"+proxy.Addr(), srv.WrongTLS(), backend.ErrUnavailable)
	refuses(t, proxy, "rediss://"+proxy.Addr(), anonymous, backend.ErrUnavailable)
	interruptions(t)
	for name, spec := range map[string]testserver.Spec{
		"redis://%s/app":           {Store: testserver.Redis, Persist: true},
		"redis+sentinel://%s/app":  {Store: testserver.Redis, Sentinel: true},
		"redis+cluster://%s/{app}": {Store: testserver.Redis, Cluster: true},
	} {
		srv := testserver.Start(t, spec)
		raw := fmt.Sprintf(name, srv.Addrs()[0])
		if spec.Sentinel {
			raw += "?master=" + testserver.SentinelMaster
		}
		s, err := open(t, raw, rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "k", "1", backend.PutOptions{})
		w, err := s.Watch(ctx, "", backend.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		held, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			if _, err := s.Get(short, "k", backend.GetOptions{}); err == nil {
				t.Errorf("%s: a dead server answers", raw)
			}
			cancel()
		}
		if err := srv.Restart(context.WithoutCancel(ctx)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a write after the restart", func() bool {
			_, err := s.Put(ctx, "k", []byte("2"), backend.PutOptions{})
			return err == nil
		})
		_ = held.Release(ctx)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// interruptions ends requests by their contexts while the server is silent, and by Close while it is busy.
func interruptions(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	for range 10 {
		s, err := open(t, "redis://"+srv.Addrs()[0]+"/app", rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		var work sync.WaitGroup
		for range 8 {
			work.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(5*time.Millisecond))))
					_, err := s.Put(ctx, "k", nil, backend.PutOptions{})
					cancel()
					if errors.Is(err, backend.ErrClosed) {
						return
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond) // of work
		if err := srv.Pause(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // of silence
		if err := srv.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		work.Wait()
	}
}

// unusedAddr is an address where nobody listens.
func unusedAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
