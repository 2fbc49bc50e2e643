package vote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// Member is a candidate, from outside: a goroutine or a process.
type Member interface {
	Resign() error // ends its term, if it leads
	Kill() error   // ends it without any chance to tidy up; again is no error
	Pause() error  // keeps it from doing anything
	Resume() error
}

// election is what the steps share.
type election struct {
	out     io.Writer
	s       *kv.Store
	members map[string]Member
	leaders <-chan lock.Leader
	failed  <-chan error
	tally   *tally
	now     lock.Leader
}

// Tell tells the story of an election on s, below whose prefix it leaves
// nothing, and prints to out what happens. start starts a candidate of that
// name, with Stand on a store of its own. It takes two leases and a little.
func Tell(ctx context.Context, out io.Writer, s *kv.Store, lease time.Duration, start func(name string) (Member, error)) (err error) {
	lease = max(lease, s.Capabilities().MinLease)
	e := &election{out: out, s: s, members: map[string]Member{}}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for _, m := range e.members {
			err = errors.Join(err, m.Kill())
		}
		_, e := s.DeletePrefix(cleanup, "")
		err = errors.Join(err, e)
	}()
	stop, err := e.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	e.say("Three candidates stand for election. Their lease is %v.", lease)
	for _, name := range []string{"ann", "ben", "cas"} {
		if e.members[name], err = start(name); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{e.next, e.resign, e.kill, e.pause, e.end} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e *election) say(format string, args ...any) { fmt.Fprintf(e.out, format+"\n", args...) }

// watch follows who leads, and what leaders write.
func (e *election) watch(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	leaders, failed, done := make(chan lock.Leader), make(chan error, 1), make(chan struct{})
	e.leaders, e.failed = leaders, failed
	if e.tally, err = newTally(ctx, e.s); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(done)
		for l, err := range lock.NewElection(e.s, "leader").Observe(ctx) {
			if err != nil {
				failed <- err
				return
			}
			select {
			case leaders <- l:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
		e.tally.close()
	}, nil
}

// next waits for the next leader, and for three writes of its.
func (e *election) next(ctx context.Context) error {
	since := time.Now()
	select {
	case l := <-e.leaders:
		if l.Token <= e.now.Token {
			return fmt.Errorf("token %d after %d", l.Token, e.now.Token)
		}
		e.now = l
	case err := <-e.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	e.say("  %s leads after %.1fs, with token %d.", e.now.Value, time.Since(since).Seconds(), e.now.Token)
	return e.tally.wrote(ctx, e.now.Token, 3)
}

func (e *election) resign(ctx context.Context) error {
	e.say("\n%s resigns, and stands again.", e.now.Value)
	if err := e.members[e.now.Value].Resign(); err != nil {
		return err
	}
	return e.next(ctx)
}

func (e *election) kill(ctx context.Context) error {
	e.say("\n%s is killed. It can neither resign nor renew its lease, which has to run out.", e.now.Value)
	if err := e.members[e.now.Value].Kill(); err != nil {
		return err
	}
	return e.next(ctx)
}

func (e *election) pause(ctx context.Context) error {
	former := e.now.Value
	e.say("\n%s is paused, as a process in a debugger or on a machine that swaps.", former)
	if err := e.members[former].Pause(); err != nil {
		return err
	}
	if err := e.next(ctx); err != nil {
		return err
	}
	e.say("\n%s goes on, with the write that it was about to make.", former)
	w, err := e.s.WatchKey(ctx, refused, kv.FromSnapshot())
	if err != nil {
		return err
	}
	defer w.Close()
	if err := e.members[former].Resume(); err != nil {
		return err
	}
	for ev, err := range w.Events() {
		if err != nil {
			return err
		}
		if len(ev.Value) > 0 {
			e.say("  The store refuses it: %s.", ev.Value)
			break
		}
	}
	return nil
}

func (e *election) end(context.Context) error {
	n, err := e.tally.result()
	if err != nil {
		return err
	}
	e.say("\nOf %d writes by leaders none came after one of a later leader.", n)
	return nil
}
