package integration

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/testserver"
)

// traefikTree is a configuration as Traefik's documentation tells people to write it.
var traefikTree = map[string]string{
	"http/middlewares/strip/stripPrefix/prefixes/0":      "/api",
	"http/routers/web-1/entryPoints/0":                   "websecure",
	"http/routers/web-1/rule":                            "Host(`example.org`) && PathPrefix(`/api`)",
	"http/routers/web-1/service":                         "web",
	"http/routers/web/rule":                              "Host(`example.org`)",
	"http/services/web/loadBalancer/servers/0/url":       "http://10.0.0.1:80/",
	"http/services/web/loadBalancer/servers/1/url":       "http://10.0.0.2:80/",
	"http/services/web/loadBalancer/passHostHeader":      "",
	"tls/stores/default/defaultCertificate/certFile":     "/etc/ssl/é 😀.pem",
	"tcp/routers/raw/tls/domains/0/main":                 "*.example.org",
	"http/services/web/loadBalancer/healthCheck/headers": "{\"X\": \"ü\"}",
}

// A tree is where another program keeps its keys, and how a user of this library reaches them.
type tree struct {
	name    string
	open    func(t *testing.T) *kv.Store
	tool    func(t *testing.T) tool // called first
	root    string                  // native, without a slash at its end
	folders []string                // what UIs and other clients leave there that is no key: passed over
}

func trees() []tree {
	server := func(store testserver.Store, path string, newTool func(*testing.T, *testserver.Server) tool, root string, folders ...string) tree {
		shared := func(t *testing.T) *testserver.Server {
			return servers.Shared(t, testserver.Spec{Store: store})
		}
		return tree{
			name: string(store) + " " + root,
			open: func(t *testing.T) *kv.Store {
				s, err := openURL(t, drivers, string(store)+"://"+shared(t).Addrs()[0]+path)
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			tool:    func(t *testing.T) tool { return newTool(t, shared(t)) },
			root:    root,
			folders: folders,
		}
	}
	return []tree{
		server(testserver.Etcd, "//traefik", newEtcdctl, "/traefik", "/traefik/http/", "/traefik//doubled"),
		server(testserver.Etcd, "/traefik", newEtcdctl, "traefik", "traefik/http/"),
		server(testserver.Consul, "/traefik", newConsulCLI, "traefik", "traefik/", "traefik/http/routers/"),
		server(testserver.ZooKeeper, "/traefik", newZkCli, "/traefik"),
		server(testserver.Redis, "//traefik", newRedisCLI, "/traefik", "/traefik/http/"),
		server(testserver.Redis, "/traefik", newRedisCLI, "traefik", "traefik/http/"),
		boltTree(),
	}
}

// TestInteropExistingTree opens what another program wrote, under the names that it chose: it is listed and watched as it
// is, and nothing of it is changed.
func TestInteropExistingTree(t *testing.T) {
	for _, tr := range trees() {
		t.Run(tr.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*within)
			defer cancel()
			tl := tr.tool(t)
			defer tl.delAll(t, tr.root)
			for key, value := range traefikTree {
				tl.put(t, tr.root+"/"+key, []byte(value))
			}
			for _, name := range tr.folders {
				tl.put(t, name, []byte("a folder"))
			}
			tl.put(t, tr.root+"ette/other", []byte("of a neighbour"))
			defer tl.delAll(t, tr.root+"ette")
			before := dump(t, tl, tr.root)

			s := tr.open(t)
			if err := s.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if !s.Capabilities().ForeignEvents { // what came since somebody last looked is found by Adopt
				if _, err := s.Adopt(ctx); err != nil {
					t.Fatal(err)
				}
			}
			strs := kv.NewTyped(s, codec.String(), "")
			got := map[string]string{}
			var order []string
			for e, err := range strs.List(ctx, "") {
				if err != nil {
					t.Fatal(err)
				}
				got[e.Key] = e.Value
				order = append(order, e.Key)
			}
			if !slices.IsSorted(order) {
				t.Errorf("not in order: %q", order)
			}
			for key, value := range traefikTree {
				if got[key] != value {
					t.Errorf("%q is %q, want %q", key, got[key], value)
				}
				delete(got, key)
			}
			for key, value := range got { // zkCli gives the nodes in between an empty value
				if !strings.HasPrefix(tr.name, "zookeeper") || value != "" {
					t.Errorf("listed besides: %q = %q", key, value)
				}
			}
			children, err := kv.Collect(strs.List(ctx, "http/routers", kv.Children()))
			if err != nil {
				t.Fatal(err)
			}
			var dirs []string
			for _, e := range children {
				if e.IsDir() {
					dirs = append(dirs, e.Key)
				}
			}
			if want := []string{"http/routers/web-1/", "http/routers/web/"}; !slices.Equal(dirs, want) {
				t.Errorf("directories %q, want %q", dirs, want)
			}

			// The doorbell: a watch of one branch, opened by another program's change.
			w, err := strs.Watch(ctx, "http/services", kv.FromSnapshot())
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			existing := 0
			for {
				ev, err := w.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if ev.Kind == kv.Synced {
					break
				}
				if _, ok := traefikTree[ev.Key]; ok && ev.Kind == kv.Existing {
					existing++
				}
			}
			if existing != 4 {
				t.Errorf("%d existing services, want 4", existing)
			}
			if after := dump(t, tl, tr.root); !maps.Equal(after, before) {
				t.Errorf("the tree was changed by being read:\n%q\nwas\n%q", after, before)
			}
			const moved = "http/services/web/loadBalancer/servers/1/url"
			tl.put(t, tr.root+"/"+moved, []byte("http://10.0.0.3:80/"))
			if !s.Capabilities().ForeignEvents { // R26: seen by a read, or by Adopt
				if n, err := s.Adopt(ctx); err != nil || n != 1 {
					t.Errorf("adopted %d, %v", n, err)
				}
			}
			ev, err := w.Next(ctx)
			if err != nil || ev.Kind != kv.Updated || ev.Key != moved || ev.Value != "http://10.0.0.3:80/" {
				t.Errorf("got %v %q = %q, %v", ev.Kind, ev.Key, ev.Value, err)
			}
			if _, err := s.Get(ctx, "http"); err != nil && !errors.Is(err, kv.ErrNotFound) {
				t.Errorf("get of what is a directory: %v", err)
			}
		})
	}
}

// dump returns every name below root with its value.
func dump(t testing.TB, tl tool, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range tl.list(t, root) {
		value, _ := tl.get(t, name)
		all[name] = string(value)
	}
	return all
}

// boltTree is a bucket that a program filled with bbolt alone, in a file that it shares with the library: nobody else can
// have it open.
func boltTree() tree {
	var db *bbolt.DB
	return tree{
		name: "bolt traefik",
		open: func(t *testing.T) *kv.Store {
			s := kv.New(boltkv.New(db, boltkv.Options{Root: "traefik"}))
			t.Cleanup(func() { s.Close() })
			return s
		},
		tool: func(t *testing.T) tool {
			var err error
			if db, err = bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, &bbolt.Options{Timeout: time.Second}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			return bareBolt{db}
		},
		root:    "traefik",
		folders: []string{"traefik/http/"},
	}
}

// bareBolt is bbolt's own API. The first segment of a name is the bucket's.
type bareBolt struct{ db *bbolt.DB }

func (b bareBolt) put(t testing.TB, name string, value []byte) {
	t.Helper()
	bucket, key, _ := strings.Cut(name, "/")
	if err := b.db.Update(func(tx *bbolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return bk.Put([]byte(key), value)
	}); err != nil {
		t.Fatal(err)
	}
}

func (b bareBolt) get(t testing.TB, name string) (value []byte, found bool) {
	t.Helper()
	bucket, key, _ := strings.Cut(name, "/")
	if err := b.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(bucket)).Get([]byte(key))
		value, found = bytes.Clone(v), v != nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return value, found
}

func (b bareBolt) del(t testing.TB, name string) {
	t.Helper()
	bucket, key, _ := strings.Cut(name, "/")
	if err := b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(key)) }); err != nil {
		t.Fatal(err)
	}
}

func (b bareBolt) delAll(t testing.TB, root string) {
	t.Helper()
	for _, name := range b.list(t, root) {
		b.del(t, name)
	}
}

func (b bareBolt) list(t testing.TB, root string) (names []string) {
	t.Helper()
	bucket, _, _ := strings.Cut(root, "/")
	if err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(key, _ []byte) error {
			if name := bucket + "/" + string(key); strings.HasPrefix(name, root+"/") {
				names = append(names, name)
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
