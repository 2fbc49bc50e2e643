package rediskv_test

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// hook is what requests go through.
type hook func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error

func (hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h(ctx, cmd, next) }
}

// does reports whether a request is for a contender's action.
func does(cmd redis.Cmder, action string) bool { return slices.Contains(cmd.Args(), any(action)) }

// TestCloseDuringContend: a request to contend that Close cuts off leaves no place behind.
func TestCloseDuringContend(t *testing.T) {
	root := rediskv.Options{Root: testserver.UniqueName(t)}
	other, _ := setup(t, root)
	contend := func() {
		t.Helper()
		c, err := other.Contend(t.Context(), "l", backend.ContendOptions{Try: true})
		if err != nil {
			t.Fatalf("the lock of a closed store: %v", err)
		}
		if err := c.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	contend() // from now on the server knows the script
	client := newClient(t, servers.Shared(t, testserver.Spec{Store: testserver.Redis}))
	s := newStore(t, client, root)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !does(cmd, "contend") {
			err := next(ctx, cmd)
			if does(cmd, "release") {
				once.Do(func() { close(released) })
			}
			return err
		}
		if _, err := cmd.Args()[1].(encoding.BinaryMarshaler).MarshalBinary(); err != nil { // as if it were written
			return err
		}
		close(sent)
		select { // it arrives after a release that overtakes it
		case <-released:
		case <-time.After(time.Second):
		}
		return next(ctx, cmd)
	}))
	contended := make(chan error, 1)
	go func() {
		_, err := s.Contend(t.Context(), "l", backend.ContendOptions{Lease: time.Minute})
		contended <- err
	}()
	<-sent
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-contended; !errors.Is(err, backend.ErrClosed) {
		t.Errorf("Contend: %v, want ErrClosed", err)
	}
	contend()
}

// TestReleaseAgain: a release whose request or reply is lost is made again.
func TestReleaseAgain(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	root := testserver.UniqueName(t)
	s, err := open(t, "redis://"+proxy.Addr()+"/"+root, rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func(func([]byte) bool) <-chan struct{}{"request": proxy.LoseRequest, "reply": proxy.LoseReply} {
		l, err := s.Register(t.Context(), "k", nil, backend.RegisterOptions{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		lost := lose(func(request []byte) bool { return bytes.Contains(request, []byte(root+"/k")) })
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("Release without its %s: %v", name, err)
		}
		<-lost
		if e, err := s.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("after Release without its %s: %+v, %v", name, e, err)
		}
	}
}

// TestHoldersBeforeTheServer is R20 for observers: a server that is away when they begin is waited for, as one that goes.
func TestHoldersBeforeTheServer(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	root := testserver.UniqueName(t)
	p := testserver.NewProxy(t, srv.Addrs()[0])
	p.Refuse(true)
	client := redis.NewClient(&redis.Options{Addr: p.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	failed := make(chan struct{}, 100)
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		err := next(ctx, cmd)
		if err != nil {
			select {
			case failed <- struct{}{}:
			default:
			}
		}
		return err
	}))
	observing := newStore(t, client, rediskv.Options{Root: root, DialTimeout: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type told struct {
		h   backend.Holder
		err error
	}
	all := make(chan told, 10)
	go func() {
		defer close(all)
		for h, err := range observing.Holders(ctx, "l") {
			all <- told{h, err}
			if h.Token != 0 {
				return
			}
		}
	}()
	for range 2 { // it asks again
		select {
		case <-failed:
		case got := <-all:
			t.Fatalf("while the server is away: %+v, %v", got.h, got.err)
		}
	}
	held, err := newStore(t, newClient(t, srv), rediskv.Options{Root: root}).Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute, Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	p.Refuse(false)
	last := told{}
	for last = range all {
		if last.err != nil {
			t.Errorf("Holders: %v", last.err)
		}
	}
	if last.h.Token != held.Token() || string(last.h.Value) != "v" {
		t.Errorf("told of %+v, the holder has token %d", last.h, held.Token())
	}

	p.Refuse(true) // and Close ends the waiting
	away := rediskv.New(client, rediskv.Options{Root: root, DialTimeout: 200 * time.Millisecond})
	done := make(chan error, 1)
	for len(failed) > 0 {
		<-failed
	}
	p.Cut()
	go func() {
		for _, err := range away.Holders(ctx, "l") {
			done <- err
			return
		}
		done <- nil
	}()
	<-failed
	if err := errors.Join(away.Close(), held.Release(ctx)); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, backend.ErrClosed) {
		t.Errorf("Holders of a closed store: %v", err)
	}
}
