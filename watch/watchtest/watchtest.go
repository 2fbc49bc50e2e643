// Package watchtest is the rules of package watch, and of the shared watches
// below it (R17–R26, R43, R44), as a test suite, for the author of any driver.
package watchtest

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/codec"
)

// Harness says how to reach the store under test.
type Harness struct {
	// Open returns a client of the store, on the given root of one server,
	// made as users make it. Several are open at a time; the suite closes
	// them.
	Open func(t testing.TB, root string) backend.Store
}

// patience is how long the suite waits for what should happen at once, on a
// machine that does much else.
const patience = 60 * time.Second

// Run runs the suite. Each case has a root of its own.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(*env)
	}{
		{"R19/a mirror is ready after its snapshot, and reads without I/O", ready},
		{"R20,R22/a mirror applies changes in order and arrives at the store's state", order},
		{"R20/Wait and Sync: a mirror has the writes that were made before", readYourWrites},
		{"R23/a mirror whose handler stalls holds up nobody and catches up", stalled},
		{"R24/an entry leaves a mirror when it expires", expiry},
		{"R43/raw and typed mirrors tell the same", rawAndTyped},
		{"R44/a value that does not decode is told, and the mirror goes on", undecodable},
		{"R20/an index follows its mirror", index},
		{"R25/subscribers of a mirror share one decoding, and none holds up another", fanOut},
		{"R17,R19,R25/watches that join a shared upstream late miss nothing and see nothing twice", late},
		{"R21,R42/Resumable: a token resumes beside watches that share the upstream", resume},
		{"R17/a value follows its key", value},
		{"R22/batches merge what comes within an interval, key by key", batches},
		{"R17,R19/a channel has the events in order, and closes", channel},
		{"R39/Close of the store ends what was built on it, with nothing left", closing},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(newEnv(t, h.Open))
		})
	}
}

// env is one case's surroundings.
type env struct {
	*testing.T
	openStore func(t testing.TB, root string) backend.Store
	root      string
}

func newEnv(t *testing.T, open func(t testing.TB, root string) backend.Store) *env {
	return &env{T: t, openStore: open, root: "watchtest-" + rand.Text()}
}

// open returns another client on the case's root.
func (e *env) open(opts ...kv.Option) *kv.Store {
	e.Helper()
	return e.openBy(e.openStore, opts...)
}

func (e *env) openBy(open func(t testing.TB, root string) backend.Store, opts ...kv.Option) *kv.Store {
	e.Helper()
	s := kv.New(open(e.T, e.root), opts...)
	e.Cleanup(func() {
		if err := s.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	return s
}

// ctx bounds a call that must not hang.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	e.Cleanup(cancel)
	return ctx
}

// must fails the case for an error.
func (e *env) must(what string, err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
}

// eventually waits for what should happen at once.
func (e *env) eventually(what string, cond func() bool) {
	e.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// record is what the suite writes.
type record struct {
	N    int    `json:"n"`
	Zone string `json:"zone,omitempty"`
}

func records(s *kv.Store) *kv.Typed[record] { return kv.NewTyped(s, codec.JSON[record](), "r") }

func (e *env) put(src *kv.Typed[record], key string, r record) kv.Entry[record] {
	e.Helper()
	ent, err := src.Put(e.ctx(), key, r)
	e.must("put "+key, err)
	return ent
}

func (e *env) del(src *kv.Typed[record], key string) {
	e.Helper()
	e.must("delete "+key, src.Delete(e.ctx(), key))
}

// isBad reports whether err is about one value only.
func isBad(err error) bool {
	var bad *codec.Error
	return errors.As(err, &bad)
}
