package testserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// localAllowed tells whether the environment lets this process run servers.
func localAllowed() error {
	switch p := os.Getenv("KV_TEST_PROVIDER"); p {
	case "", "auto", "local":
		return supported()
	case "none":
		return unavailable("KV_TEST_PROVIDER is none")
	case "containers":
		return unavailable("KV_TEST_PROVIDER is containers, and no KV_TEST_<STORE>_URL names such a server")
	default:
		return fmt.Errorf("testserver: KV_TEST_PROVIDER is %q: want auto, local, containers or none", p)
	}
}

// Required tells whether the environment asks that a store's tests run. Stores that need no server may be named too.
func Required(store Store) (bool, error) {
	found := false
	for name := range strings.SplitSeq(os.Getenv("KV_TEST_REQUIRE"), ",") {
		switch name = strings.TrimSpace(name); {
		case name == "all" || Store(name) == store:
			found = true
		case name == "" || name == "memory" || name == "bolt" || name == "containers" || slices.Contains(Stores(), Store(name)):
		default:
			return false, fmt.Errorf("testserver: KV_TEST_REQUIRE names %q, which is no store", name)
		}
	}
	return found, nil
}

// given returns the server that the environment names, if it names one.
func given(ctx context.Context, store Store) (s *Server, ok bool, err error) {
	variable := "KV_TEST_" + strings.ToUpper(string(store)) + "_URL"
	raw := os.Getenv(variable)
	if raw == "" {
		return nil, false, nil
	}
	// By hand: net/url does not take several hosts with ports, and its errors show passwords.
	_, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, true, fmt.Errorf("testserver: %s has no scheme", variable)
	}
	hosts := rest
	if i := strings.IndexAny(hosts, "/?#"); i >= 0 {
		hosts = hosts[:i]
	}
	hosts = hosts[strings.LastIndexByte(hosts, '@')+1:]
	s = &Server{store: store, url: raw, addrs: strings.Split(hosts, ","), provider: "environment", shared: true}
	if err := anyAnswers(ctx, s.addrs); err != nil {
		return nil, true, fmt.Errorf("testserver: the server that %s names: %w", variable, err)
	}
	return s, true, nil
}

// anyAnswers tells a mistyped address at once, in place of a time-out in every test.
func anyAnswers(ctx context.Context, addrs []string) (err error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	for _, addr := range addrs {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "tcp", addr); err == nil {
			return conn.Close()
		}
	}
	return err
}
