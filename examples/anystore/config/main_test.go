package main

import (
	"bytes"
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/examples/config/follow"
	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }

// storeURL is the URL of a running store, with a root of the test's own.
func storeURL(t *testing.T, name string) string {
	if name == "bolt" {
		path := filepath.ToSlash(filepath.Join(t.TempDir(), "config.db"))
		return (&url.URL{Scheme: "bolt", Path: "/" + strings.TrimPrefix(path, "/")}).String()
	}
	return servers.Shared(t, testserver.Spec{Store: testserver.Store(name)}).URL() + "/" + testserver.UniqueName(t)
}

// One story, told in the same words by every store.
func TestConfig(t *testing.T) {
	for _, name := range []string{"etcd", "consul", "zookeeper", "redis", "bolt"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out bytes.Buffer
			if err := run(ctx, &out, storeURL(t, name)); err != nil {
				t.Fatalf("%v after:\n%s", err, out.String())
			}
			if got := out.String(); got != follow.Expected {
				t.Errorf("got:\n%s\nwant:\n%s", got, follow.Expected)
			}
		})
	}
}
