package main

import (
	"bytes"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/internal/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// withRedis runs a shell command with a Redis of the provider, and returns what it wrote.
func withRedis(t *testing.T, provider, script string, signals <-chan os.Signal) (code int, out, diagnostics string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	t.Setenv("KV_TEST_REDIS_URL", "")
	var stdout, stderr bytes.Buffer
	code = run([]string{"-provider", provider, "-stores", "redis", "--", "sh", "-c", script}, &stdout, &stderr, signals)
	t.Log(stderr.String())
	if strings.Contains(stderr.String(), "server cannot be run here") {
		if must, err := testserver.Required(testserver.Redis); must || err != nil {
			t.Fatalf("Redis is required, and cannot be run: %v", err)
		}
		t.Skip("no Redis here")
	}
	return code, stdout.String(), stderr.String()
}

func closed(t *testing.T, url string) bool {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "redis://"), 5*time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}

func TestCommandFindsServers(t *testing.T) {
	for _, provider := range []string{"local", "auto"} {
		t.Run(provider, func(t *testing.T) {
			code, url, says := withRedis(t, provider, `printf %s "$KV_TEST_REDIS_URL"; exit 7`, nil)
			if code != 7 {
				t.Errorf("exit code %d, want the command's", code)
			}
			if !strings.HasPrefix(url, "redis://") || !strings.Contains(says, url) || !strings.Contains(says, "redis ") {
				t.Errorf("the command found %q; announced: %s", url, says)
			}
			if !closed(t, url) {
				t.Error("the server outlives the command")
			}
		})
	}
}

func TestSignalIsPassedOn(t *testing.T) {
	signals := make(chan os.Signal, 1)
	ready := t.TempDir() + "/ready"
	over := make(chan struct{})
	var watching sync.WaitGroup
	defer watching.Wait()
	defer close(over)
	watching.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := os.Stat(ready); err == nil {
				signals <- syscall.SIGTERM // which the channel's buffer takes
				return
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	})
	code, url, _ := withRedis(t, "local", `printf %s "$KV_TEST_REDIS_URL"; : >`+ready+`; exec sleep 60`, signals)
	if want := 128 + int(syscall.SIGTERM); code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	if !closed(t, url) {
		t.Error("the server outlives the command")
	}
}

func TestSignalEndsTheStart(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGINT
	code, out, _ := withRedis(t, "local", "echo run", signals)
	if code != 128+int(syscall.SIGINT) || out != "" {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

func TestFailures(t *testing.T) {
	t.Setenv("KV_TEST_REDIS_URL", "redis://127.0.0.1:1") // runs already, says the environment
	for _, test := range []struct {
		args []string
		want int
	}{
		{nil, exitUsage},
		{[]string{"-provider", "cloud", "true"}, exitUsage},
		{[]string{"-stores", "mysql", "-provider", "local", "true"}, exitFailed},
		{[]string{"-stores", "redis", "-provider", "local", "/no/such/command"}, exitFailed},
		{[]string{"-stores", "redis", "-provider", "local", "true"}, 0},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(test.args, &stdout, &stderr, nil); got != test.want {
			t.Errorf("%q: exit code %d, want %d; %s", test.args, got, test.want, stderr.String())
		}
	}
}
