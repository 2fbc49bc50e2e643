package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// interrupted is why a context has ended that a signal has ended.
type interrupted struct{ by os.Signal }

func (i interrupted) Error() string { return i.by.String() }
func (interrupted) Unwrap() error   { return context.Canceled }

// interruptible returns a context that an interrupt or a termination ends, with
// cause interrupted, and what gives the signals back.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			cancel(interrupted{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// byTerminal reports whether ctx was ended by the signal that a terminal sends
// to all processes in its foreground.
func byTerminal(ctx context.Context) bool {
	var i interrupted
	return errors.As(context.Cause(ctx), &i) && i.by == os.Interrupt
}
