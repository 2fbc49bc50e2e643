package zookeeperkv

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
)

// tidy sees to it that a case leaves nothing behind but what has to stay: when its keys are deleted, the node of the root
// and the frame of the bookkeeping. It then removes these, too, so that the next run finds the server as this one did.
type tidy struct {
	addr string

	mu      sync.Mutex
	roots   map[string]bool
	foreign map[string]bool
}

func newTidy(t *testing.T, addr string) *tidy {
	y := &tidy{addr: addr, roots: map[string]bool{}, foreign: map[string]bool{}}
	c, done := y.dial(t)
	before := tree(t, c, "/")
	done()
	t.Cleanup(func() {
		c, done := y.dial(t)
		defer done()
		for path := range tree(t, c, "/") {
			if _, found := before[path]; !found {
				t.Errorf("%s is left over", path)
			}
		}
	})
	return y
}

// dial opens a connection for a moment: one that outlives a case is a leak to it.
func (y *tidy) dial(t testing.TB) (c *zk.Conn, done func()) {
	c, events, err := zk.Connect([]string{y.addr}, 10*time.Second, zk.WithLogger(quiet{}))
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		c.Close()
		for range events {
		}
	}
}

// watch looks at root when the case is over. Called before the case opens its stores, it comes after they are closed.
func (y *tidy) watch(t testing.TB, root string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.roots[root] {
		return
	}
	y.roots[root] = true
	t.Cleanup(func() { y.look(t, root) })
}

// frame is what stays of the bookkeeping: its directories, guards and buckets, of which the number is bounded, seconds
// that have not come yet, and directories of locks, which the server removes when they have been empty for a while.
var frame = regexp.MustCompile(`^(/(guard(/[0-9]+)?|ttl(/[0-9a-f]{3})?|due(/[0-9]+)?|lock(/[^/]+)?|clock))?$`)

// other notes that another program writes below root, which may leave directories empty.
func (y *tidy) other(root string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.foreign[root] = true
}

func (y *tidy) look(t testing.TB, root string) {
	u, err := backend.ParseURL("zookeeper://" + y.addr + "/" + root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Driver{}.open(u)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, done := y.dial(t)
	defer done()
	y.mu.Lock()
	foreign := y.foreign[root]
	y.mu.Unlock()
	ctx, cancel := pace.Watch(t).Timeout(context.Background(), 20*time.Second) // the test's has ended
	defer cancel()
	w, err := s.Watch(ctx, "", backend.WatchOptions{}) // deletes what has expired
	if err == nil {
		defer w.Close()
		_, err = s.DeletePrefix(ctx, "")
	}
	if errors.Is(err, backend.ErrNewerSchema) || errors.Is(err, backend.ErrCorrupt) {
		remove(t, c, s.root, s.meta)
		return
	}
	if err != nil {
		t.Errorf("cannot tidy up: %v", err)
	}
	for {
		var over []string
		for path, data := range tree(t, c, s.root) {
			_, ours := s.space.Key(path)
			if ours && path != s.root && (data != nil || !foreign) {
				over = append(over, path)
			}
		}
		for path := range tree(t, c, s.meta) {
			if !frame.MatchString(strings.TrimPrefix(path, s.meta)) {
				over = append(over, path)
			}
		}
		if len(over) == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Errorf("%d nodes are left over: %q", len(over), over[:min(5, len(over))])
			break
		}
		time.Sleep(20 * time.Millisecond) // and look again
	}
	remove(t, c, s.root, s.meta)
}

// remove deletes nodes with all that is below.
func remove(t testing.TB, c *zk.Conn, paths ...string) {
	for _, path := range paths {
		all := slices.Sorted(maps.Keys(tree(t, c, path)))
		for _, path := range slices.Backward(all) {
			if err := c.Delete(path, -1); err != nil && !errors.Is(err, zk.ErrNoNode) {
				t.Errorf("delete %s: %v", path, err)
			}
		}
	}
}

// tree returns the data of all nodes from path on.
func tree(t testing.TB, c *zk.Conn, path string) map[string][]byte {
	all := map[string][]byte{}
	var walk func(path string)
	walk = func(path string) {
		data, _, err := c.Get(path)
		if err == nil {
			all[path] = data
			var names []string
			names, _, err = c.Children(path)
			for _, name := range names {
				walk(strings.TrimSuffix(path, "/") + "/" + name)
			}
		}
		if err != nil && !errors.Is(err, zk.ErrNoNode) && !errors.Is(err, zk.ErrNoAuth) { // other tests have locked nodes
			t.Error(err)
		}
	}
	walk(path)
	return all
}
