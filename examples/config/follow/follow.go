// Package follow is a service whose configuration follows the store: what the
// configuration examples run on whichever store they opened. It prints the same
// lines on each.
package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/watch"
)

// Limits is the configuration of the service.
type Limits struct {
	Rate    int           `json:"rate"`
	Timeout time.Duration `json:"timeout"`
}

func (l Limits) String() string {
	return fmt.Sprintf("%d requests a second, %v each", l.Rate, l.Timeout)
}

// Defaults hold while the store has none.
var Defaults = Limits{Rate: 1, Timeout: time.Second}

// Flag is a feature that is on for some users.
type Flag struct {
	Team  string   `json:"team"`
	Users []string `json:"users"`
}

// service is what the program that is configured has.
type service struct {
	limits *watch.Value[Limits]
	flags  *watch.Mirror[Flag]
	byTeam *watch.Index[string, Flag]
}

// serve is a request: it reads the configuration without I/O.
func (s *service) serve() bool {
	_, beta := s.flags.Get("beta")
	return s.limits.Load().Rate > 0 && beta
}

// Tell tells the story on s, below a prefix of its own that is empty again in
// the end, and prints to out what happens.
func Tell(ctx context.Context, out io.Writer, s *kv.Store) (err error) {
	s = s.Sub(fmt.Sprintf("config-%x", time.Now().UnixNano()))
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, e := s.DeletePrefix(cleanup, "")
		err = errors.Join(err, e)
	}()
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }

	// The operator writes; the service follows.
	limits := kv.NewTyped(s, codec.JSON[Limits](), "service")
	flags := kv.NewTyped(s, codec.JSON[Flag](), "flags")
	if _, err := flags.Put(ctx, "beta", Flag{Team: "search", Users: []string{"ann"}}); err != nil {
		return err
	}
	bad := make(chan error, 1)
	svc := &service{}
	// In a program of your own, these lines are all that it takes.
	svc.limits, err = watch.NewValue(ctx, limits, "limits", Defaults, watch.OnBadValue(func(err error) { bad <- err }))
	if err != nil {
		return err
	}
	defer svc.limits.Close()
	if svc.flags, err = watch.NewMirror(ctx, flags); err != nil {
		return err
	}
	defer svc.flags.Close()
	svc.byTeam = watch.NewIndex(svc.flags, func(e kv.Entry[Flag]) []string { return []string{e.Value.Team} })
	say("There is no configuration yet, so the defaults hold:\n  %v", svc.limits.Load())

	stop := svc.load()
	defer stop()
	// step waits until the service has seen what the operator has done.
	step := func(what string, do func() error) error {
		changed := svc.limits.Changed()
		if err := do(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		say("%s\n  %v", what, svc.limits.Load())
		return nil
	}
	put := func(l Limits) func() error {
		return func() error { _, err := limits.Put(ctx, "limits", l); return err }
	}
	if err := step("The operator writes the first configuration, and the service has it:", put(Limits{100, 2 * time.Second})); err != nil {
		return err
	}
	if err := step("An update arrives while requests are served:", put(Limits{250, 500 * time.Millisecond})); err != nil {
		return err
	}
	if _, err := limits.Store().Put(ctx, "limits", []byte(`{"rate": "many"}`)); err != nil {
		return err
	}
	select {
	case err := <-bad:
		var undecodable *codec.Error
		if !errors.As(err, &undecodable) {
			return err
		}
		say("A value that does not decode is reported (key %q), and the last good one stays:\n  %v", undecodable.Key, svc.limits.Load())
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := step("The operator mends it:", put(Limits{300, time.Second})); err != nil {
		return err
	}
	if err := step("The key is deleted, and the defaults hold again:", func() error { return limits.Delete(ctx, "limits") }); err != nil {
		return err
	}
	if err := step("It comes back:", put(Limits{50, time.Second})); err != nil {
		return err
	}

	entry, err := flags.Put(ctx, "suggest", Flag{Team: "search", Users: []string{"ann", "bob"}})
	if err != nil {
		return err
	}
	if err := svc.flags.Wait(ctx, entry.Revision); err != nil { // read your own write
		return err
	}
	say("The mirror has the flags of team search, by an index:\n  %s", strings.Join(svc.ofTeam("search"), ", "))

	if served, without := stop(); served == 0 || without > 0 {
		return fmt.Errorf("%d of %d requests found no configuration", without, served)
	}
	say("Every request found a configuration, and none asked the store for it.")
	svc.limits.Close()
	say("When nothing follows the store any more, as in an outage, the last one stays:\n  %v", svc.limits.Load())
	return nil
}

func (s *service) ofTeam(team string) (names []string) {
	for e := range s.byTeam.Get(team) {
		names = append(names, fmt.Sprintf("%s (%d)", e.Key, len(e.Value.Users)))
	}
	slices.Sort(names)
	return names
}

// load serves requests until stop, which tells how many there were, and how
// many of them found no configuration.
func (s *service) load() (stop func() (served, without int64)) {
	var all, bad atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			tick := time.NewTicker(100 * time.Microsecond)
			defer tick.Stop()
			for {
				if !s.serve() {
					bad.Add(1)
				}
				all.Add(1)
				select {
				case <-done:
					return
				case <-tick.C:
				}
			}
		})
	}
	return sync.OnceValues(func() (int64, int64) {
		close(done)
		wg.Wait()
		return all.Load(), bad.Load()
	})
}
