package main

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// stores are those that need no server.
var stores = map[string]func(*testing.T) shell{"memory": memory, "bolt": bolt}

// bolt is a file that each command opens and closes.
func bolt(t *testing.T) shell {
	path := filepath.ToSlash(filepath.Join(t.TempDir(), "kv.db"))
	u := url.URL{Scheme: "bolt", Path: "/" + strings.TrimPrefix(path, "/")}
	return shell{t, drivers, u.String()}
}
