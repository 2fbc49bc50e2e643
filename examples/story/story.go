// Package story is a service registry in eight short steps: what the examples
// run on whichever store they opened. It prints the same lines on each store,
// but for the revisions.
package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
)

// Service is one instance of a service.
type Service struct {
	Addr   string `json:"addr"`
	Weight int    `json:"weight"`
}

func (s Service) String() string { return fmt.Sprintf("%s, weight %d", s.Addr, s.Weight) }

// Retired is an instance that is no longer used.
type Retired struct {
	Service
	Reason string `json:"reason"`
}

// story is what the steps share.
type story struct {
	out      io.Writer
	services *kv.Typed[Service]
	retired  *kv.Typed[Retired]
	visits   *kv.Typed[int]
	seen     <-chan error // receives once for each event that the watch printed
}

// Tell tells the story on s, below a prefix of its own that is empty again in
// the end, and prints to out what happens. It takes about four seconds, most of
// them for a key that expires.
func Tell(ctx context.Context, out io.Writer, s *kv.Store) (err error) {
	s = s.Sub(fmt.Sprintf("story-%x", time.Now().UnixNano()))
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, e := s.DeletePrefix(cleanup, "")
		err = errors.Join(err, e)
	}()
	st := &story{
		out:      out,
		services: kv.NewTyped(s, codec.JSON[Service](), "services"),
		retired:  kv.NewTyped(s, codec.JSON[Retired](), "retired"),
		visits:   kv.NewTyped(s, codec.JSON[int](), "visits"),
	}
	stop, err := st.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for _, step := range []func(context.Context) error{
		st.create, st.list, st.update, st.modify, st.transact, st.expire, st.register,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	st.say("\nThe end.")
	return nil
}

func (st *story) say(format string, args ...any) { fmt.Fprintf(st.out, format+"\n", args...) }

// watch prints what happens to the services, as it happens, until stop.
func (st *story) watch(ctx context.Context) (stop func(), err error) {
	st.say("Watch the services, from what is there on.")
	w, err := st.services.Watch(ctx, "", kv.FromSnapshot())
	if err != nil {
		return nil, err
	}
	seen, stopped, done := make(chan error), make(chan struct{}), make(chan struct{})
	st.seen = seen
	go func() {
		defer close(done)
		for ev, err := range w.Events() {
			if err == nil {
				st.say("  watch: %s", describe(ev))
			}
			select {
			case seen <- err:
			case <-stopped:
				return
			}
		}
	}()
	return func() {
		close(stopped)
		w.Close()
		<-done
	}, st.event(ctx, nil)
}

// event waits until the watch has printed one more event, if err is nil. Steps
// that wait for each other tell the same story on stores that may merge
// changes which come too fast.
func (st *story) event(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	select {
	case err := <-st.seen:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func describe(ev kv.Event[Service]) string {
	switch ev.Kind {
	case kv.Synced:
		return "that is all there was"
	case kv.Deleted:
		return ev.Key + " is gone"
	default:
		return fmt.Sprintf("%s %s: %v", ev.Key, ev.Kind, ev.Value)
	}
}
