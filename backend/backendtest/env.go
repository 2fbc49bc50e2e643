package backendtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
)

// defaultPatience is reached only by a failure, and is generous because the
// machine may be busy.
const defaultPatience = 20 * time.Second

// never is how long a case waits to see that something does not happen, where
// no event marks that it could have. A defect that takes longer to show slips
// through; one that shows at once, which is the usual kind, does not.
const never = 150 * time.Millisecond

// env is what a case works with: a fresh root and a store on it.
type env struct {
	*testing.T
	h    Harness
	ctx  context.Context // ends with the case, or when it hangs
	root string
	s    backend.Store // the first store on root
	caps backend.Capabilities

	patience time.Duration // how long to wait for what has to happen
	stalls   *pace.Stalls  // when the machine stood still
}

func newEnv(t *testing.T, h Harness, c testCase) *env {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, errors.New("the case hangs"))
	t.Cleanup(cancel)
	e := &env{T: t, h: h, ctx: ctx, root: "conformance-" + rand.Text()[:10], stalls: pace.Watch(t)}
	e.patience = cmp.Or(h.patience, defaultPatience)
	t.Cleanup(func() {
		if t.Failed() && c.why != "" {
			t.Log("why: " + c.why)
		}
	})
	e.s = h.Open(t, e.root)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.patience)
		defer cancel()
		if _, err := e.s.DeletePrefix(ctx, ""); err != nil && !errors.Is(err, backend.ErrClosed) {
			t.Errorf("emptying the root: %v", err)
		}
		closeStore(t, e.s)
	})
	e.noErr(e.s.Ping(e.ctx), "Ping")
	e.caps = e.s.Capabilities()
	return e
}

// open returns one more store on the case's root.
func (e *env) open() backend.Store { return e.openAt(e.root) }

func (e *env) openAt(root string) backend.Store {
	s := e.h.Open(e.T, root)
	e.Cleanup(func() { closeStore(e.T, s) })
	return s
}

func closeStore(t testing.TB, s backend.Store) {
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// noLeaks fails t if, when everything else of t is cleaned up, goroutines run
// that did not run before (R39).
func noLeaks(t *testing.T, h Harness) {
	stalls := pace.Watch(t) // before the goroutines that are there already are noted
	opts := append([]goleak.Option{goleak.IgnoreCurrent()}, h.Leaks...)
	t.Cleanup(func() {
		if t.Failed() {
			return // a case that gave up half way is not blamed for what it left
		}
		var err error
		for begin := time.Now(); time.Since(begin) < cmp.Or(h.patience, 5*time.Second)+stalls.Since(begin); {
			if err = goleak.Find(opts...); err == nil { // looks for about half a second
				return
			}
		}
		t.Errorf("R39: goroutines outlive the case: %v", err)
	})
}

func (e *env) noErr(err error, what string, args ...any) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// wantErr demands an error that matches all of want. A call that a store
// leaves out altogether is told apart, because that is the usual first result.
func (e *env) wantErr(err error, what string, want ...error) {
	e.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			e.Fatalf("%s: got error %v, want %v", what, err, w)
		}
	}
}

func (e *env) put(s backend.Store, key, value string) backend.Entry {
	e.Helper()
	return e.putWith(s, key, value, backend.PutOptions{})
}

func (e *env) putWith(s backend.Store, key, value string, o backend.PutOptions) backend.Entry {
	e.Helper()
	ent, err := s.Put(e.ctx, key, []byte(value), o)
	e.noErr(err, "Put(%q, %+v)", key, o)
	if ent.Key != key || ent.Revision == 0 {
		e.Fatalf("Put(%q) returned key %q at revision %d", key, ent.Key, ent.Revision)
	}
	return ent
}

func (e *env) get(s backend.Store, key string) backend.Entry {
	e.Helper()
	ent, err := s.Get(e.ctx, key, backend.GetOptions{})
	e.noErr(err, "Get(%q)", key)
	if ent.Key != key || ent.Revision == 0 {
		e.Fatalf("Get(%q) returned key %q at revision %d", key, ent.Key, ent.Revision)
	}
	return ent
}

// holds demands that key has value, and returns its entry.
func (e *env) holds(s backend.Store, key, value string) backend.Entry {
	e.Helper()
	ent := e.get(s, key)
	if string(ent.Value) != value {
		e.Fatalf("Get(%q) = %q, want %q", key, short(ent.Value), short([]byte(value)))
	}
	return ent
}

func (e *env) absent(s backend.Store, key string) {
	e.Helper()
	_, err := s.Get(e.ctx, key, backend.GetOptions{})
	e.wantErr(err, fmt.Sprintf("Get(%q)", key), backend.ErrNotFound)
}

func (e *env) del(s backend.Store, key string) {
	e.Helper()
	e.noErr(s.Delete(e.ctx, key, backend.DeleteOptions{}), "Delete(%q)", key)
}

func (e *env) list(s backend.Store, prefix string, o backend.ListOptions) []backend.Entry {
	e.Helper()
	var all []backend.Entry
	for ent, err := range s.List(e.ctx, prefix, o) {
		e.noErr(err, "List(%q, %+v)", prefix, o)
		all = append(all, ent)
	}
	return all
}

// lists demands that List yields want, in that order.
func (e *env) lists(s backend.Store, prefix string, o backend.ListOptions, want ...string) {
	e.Helper()
	if got := keysOf(e.list(s, prefix, o)); !slices.Equal(got, want) {
		e.Fatalf("List(%q, %+v) yields %q, want %q", prefix, o, got, want)
	}
}

// fill writes one entry for each key, valued by value, as fast as the store
// lets it, and returns their revisions.
func (e *env) fill(s backend.Store, keys []string, value func(key string) string) map[string]backend.Revision {
	e.Helper()
	revs := make(map[string]backend.Revision, len(keys))
	for part := range slices.Chunk(keys, backend.MaxTxnOps) {
		var t backend.Txn
		for _, k := range part {
			t.Writes = append(t.Writes, backend.Write{Key: k, Value: []byte(value(k))})
		}
		res, err := s.Commit(e.ctx, t)
		e.noErr(err, "Commit of %d puts", len(part))
		for _, k := range part {
			revs[k] = res.Revision
		}
	}
	return revs
}

// eventually waits until cond holds.
func (e *env) eventually(what string, cond func() bool) {
	e.Helper()
	e.within(e.patience, what, cond)
}

// within is eventually with a bound that is a rule's: the time for which the
// machine stands still does not count.
func (e *env) within(d time.Duration, what string, cond func() bool) {
	e.Helper()
	e.stalls.Eventually(e, d, what, cond)
}

// patient returns a context for a rule's bound, as within has it.
func (e *env) patient(d time.Duration) (context.Context, context.CancelFunc) {
	return e.stalls.Timeout(e.ctx, d)
}

// withoutIO demands that f sends nothing, where the harness counts requests.
// A store may send a keep-alive at any moment, so one silent run of three is
// proof enough.
func (e *env) withoutIO(what string, f func()) {
	e.Helper()
	f()
	if e.h.Requests == nil {
		return
	}
	var sent int64
	for range 3 {
		before := e.h.Requests()
		f()
		if sent = e.h.Requests() - before; sent == 0 {
			return
		}
	}
	e.Errorf("%s sent %d requests, want none", what, sent)
}

func keysOf(entries []backend.Entry) []string {
	keys := make([]string, len(entries))
	for i, ent := range entries {
		keys[i] = ent.Key
	}
	return keys
}

// short cuts a value for a message.
func short(b []byte) []byte {
	if len(b) > 40 {
		return fmt.Appendf(nil, "%s… (%d bytes)", b[:40], len(b))
	}
	return b
}

// numbered returns n keys, in byte order.
func numbered(prefix string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%05d", prefix, i)
	}
	return keys
}
