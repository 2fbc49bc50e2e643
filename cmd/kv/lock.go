package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// stopFor is how long a command may take to end once its lock is lost, or kv
// was terminated, before it is killed. It is asked to by SIGTERM, save by a
// terminal's interrupt, which it has had itself: SIGTERM comes as much later, if
// the command is still there, and the end as much later again.
const stopFor = 5 * time.Second

// childStatus is the exit status of the command that kv lock ran.
type childStatus int

func (s childStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

func locked(fs *flag.FlagSet) do {
	wait := fs.Duration("wait", 0, "wait for the lock for `D` at most, 0s is not at all; without it, for as long as it takes")
	lease := fs.Duration("lease", lock.DefaultLease, "let the lock outlive a holder that has crashed by `D`; 15s unless given")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		limit := time.Duration(-1)
		if given(fs, "wait") {
			if limit = *wait; limit < 0 {
				return usageError("lock: -wait is below zero")
			}
		}
		host, err := os.Hostname()
		if err != nil {
			host = "unknown host"
		}
		who := fmt.Sprintf("%s, process %d", host, os.Getpid())
		held, err := acquire(ctx, s, args[0], limit, lock.Lease(*lease), lock.Value(who))
		if err != nil {
			return err
		}
		err = a.child(ctx, held, args[1:])
		if e := held.Unlock(ctx); e != nil && !errors.Is(e, kv.ErrLockLost) {
			err = errors.Join(err, e)
		}
		if lost := held.Err(); lost != nil {
			return lost // which matters more than how the command took it
		}
		return err
	}
}

// acquire waits for the lock up to limit; below zero is no limit.
func acquire(ctx context.Context, s *kv.Store, name string, limit time.Duration, opts ...lock.Option) (*lock.Held, error) {
	switch {
	case limit == 0:
		return lock.TryLock(ctx, s, name, opts...)
	case limit < 0:
		return lock.Lock(ctx, s, name, opts...)
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A store that does not answer has not said that the lock is held.
	if err := s.Ping(waiting); err != nil {
		return nil, err
	}
	held, err := lock.Lock(waiting, s, name, opts...)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: gave up after %v", kv.ErrLocked, limit)
	}
	return held, err
}

// child runs a command until it ends, the lock is lost, or ctx ends. It finds
// the fencing token in its environment.
func (a *app) child(ctx context.Context, held *lock.Held, args []string) error {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	defer signal.Stop(terminated)
	locked := held.Context(ctx)
	if locked.Err() != nil {
		return context.Cause(locked) // before there was a command that a terminal could interrupt
	}
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer stop()
		select {
		case <-locked.Done():
		case <-stopping.Done():
			return
		}
		if byTerminal(ctx) {
			a.leaveTime(stopping, held, terminated)
		}
	})
	defer waiting.Wait()
	defer stop()
	cmd := exec.CommandContext(stopping, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KV_LOCK_TOKEN="+strconv.FormatUint(held.Token(), 10))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	cmd.Cancel = func() error {
		// Not an interrupt: a shell that waits for a program of its own goes
		// on with the next line after that, without the lock.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return cmd.Process.Kill() // there are systems without signals
		}
		return nil
	}
	cmd.WaitDelay = cmp.Or(a.stopFor, stopFor)
	err := cmd.Run()
	if err != nil && locked.Err() != nil {
		return context.Cause(locked) // why it was stopped, not how it took it
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return childStatus(128 + int(status.Signal())) // as a shell has it
	}
	return childStatus(exit.ExitCode())
}

// leaveTime waits while a command ends that was interrupted together with kv,
// which is a matter between it and who sits at the terminal: a second signal
// would cut short what it does about the first.
func (a *app) leaveTime(stopping context.Context, held *lock.Held, terminated <-chan os.Signal) {
	patience := time.NewTimer(cmp.Or(a.stopFor, stopFor))
	defer patience.Stop()
	select {
	case <-patience.C:
	case <-terminated: // of somebody who wants it to end now
	case <-held.Done():
	case <-stopping.Done(): // the command has ended
	}
}
