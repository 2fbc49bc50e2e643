package main

import (
	"context"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/examples/leader/vote"
)

// candidate is a goroutine with a client of its own, which can be kept from
// doing anything, as if it were a process.
type candidate struct {
	s      *kv.Store // stays open when the candidate is killed: closing it would release the lock
	resign chan struct{}
	end    context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	paused chan struct{} // closed by Resume; nil while it runs
}

func newCandidate(ctx context.Context, file *boltkv.Store, name string, lease time.Duration) *candidate {
	ctx, cancel := context.WithCancel(ctx)
	c := &candidate{resign: make(chan struct{}, 1), end: cancel, done: make(chan struct{})}
	c.s = kv.New(file.Peer(), kv.Intercept(c.intercept))
	go func() {
		defer close(c.done)
		_ = vote.Stand(ctx, c.s.Sub("election"), name, lease, c.resign) // ends with ctx
	}()
	return c
}

// intercept holds up every request of a candidate that is paused, renewals
// included.
func (c *candidate) intercept(ctx context.Context, _ kv.Call, next func(context.Context) error) error {
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	if paused != nil {
		select {
		case <-paused:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return next(ctx)
}

// Resign implements vote.Member.
func (c *candidate) Resign() error {
	c.resign <- struct{}{}
	return nil
}

// Pause implements vote.Member.
func (c *candidate) Pause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = make(chan struct{})
	return nil
}

// Resume implements vote.Member.
func (c *candidate) Resume() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.paused)
	c.paused = nil
	return nil
}

// Kill implements vote.Member: none of its requests gets through any more, so
// nothing is released.
func (c *candidate) Kill() error {
	c.mu.Lock()
	if c.paused == nil {
		c.paused = make(chan struct{})
	}
	c.mu.Unlock()
	c.end()
	<-c.done
	return nil
}
