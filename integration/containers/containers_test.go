package containers_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/integration/containers"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// required tells whether somebody relies on these tests.
func required() bool {
	return os.Getenv("KV_TEST_PROVIDER") == "containers" || slices.Contains(strings.Split(os.Getenv("KV_TEST_REQUIRE"), ","), "containers")
}

// needDocker skips a test where containers cannot be run, unless that is required.
func needDocker(t *testing.T, stores ...containers.Store) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := containers.Available(ctx, stores...)
	if errors.Is(err, containers.ErrUnavailable) && !required() {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStart(t *testing.T) {
	for _, store := range containers.Stores() {
		t.Run(string(store), func(t *testing.T) {
			needDocker(t, store)
			var addr string
			t.Run("serves", func(t *testing.T) {
				s := containers.Start(t, store)
				addr = s.Addrs()[0]
				if want := string(store) + "://" + addr; s.URL("") != want || s.Version() == "" {
					t.Errorf("%v has the URL %q, want %q", s, s.URL(""), want)
				}
				if !answers(t, addr) {
					t.Error("the port is closed")
				}
			})
			if answers(t, addr) {
				t.Error("it outlives its test")
			}
		})
	}
}

func answers(t *testing.T, addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return false
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	return true
}

// TestOpen is what a user's test does, on each store.
func TestOpen(t *testing.T) {
	for _, store := range containers.Stores() {
		t.Run(string(store), func(t *testing.T) {
			needDocker(t, store)
			t.Parallel()
			s := containers.Open(t, driverOf(store))
			if _, err := s.Put(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
			if e, err := s.Get(t.Context(), "k"); err != nil || string(e.Value) != "v" {
				t.Errorf("got %q, %v", e.Value, err)
			}
		})
	}
}

// Two at once have nothing in common.
func TestServersAreApart(t *testing.T) {
	needDocker(t, containers.Redis)
	a, b := containers.Start(t, containers.Redis), containers.Start(t, containers.Redis)
	if got := redisCommand(t, a, "SET key value"); got != "+OK" {
		t.Fatal(got)
	}
	if got := redisCommand(t, b, "EXISTS key"); got != ":0" {
		t.Errorf("the other server answers %q", got)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if answers(t, a.Addrs()[0]) {
		t.Error("closed, and the port is open")
	}
}

func redisCommand(t *testing.T, s *containers.Server, command string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestFailedStartSaysWhy(t *testing.T) {
	needDocker(t, containers.Redis)
	image, err := containers.Image(containers.Redis)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KV_TEST_IMAGE_ETCD", image) // has no etcd in it
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if s, err := containers.Run(ctx, containers.Etcd); err == nil || !strings.Contains(err.Error(), image) {
		t.Errorf("got %v, %v; want an error that names the image", s, err)
	}
}

func TestImage(t *testing.T) {
	for _, store := range containers.Stores() {
		variable := "KV_TEST_IMAGE_" + strings.ToUpper(string(store))
		t.Setenv(variable, "")
		if image, err := containers.Image(store); err != nil || !strings.Contains(image, string(store)+":") {
			t.Errorf("image of %s is %q, %v", store, image, err)
		}
		t.Setenv(variable, "mine:1")
		if image, err := containers.Image(store); image != "mine:1" || err != nil {
			t.Errorf("chosen image of %s is %q, %v", store, image, err)
		}
	}
	if _, err := containers.Image("mysql"); err == nil {
		t.Error("there is an image of MySQL")
	}
	if err := containers.Available(t.Context(), "mysql"); err == nil {
		t.Error("MySQL is available")
	}
}
