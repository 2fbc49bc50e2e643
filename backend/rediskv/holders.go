package rediskv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// observer is one running Holders.
type observer struct {
	name string
	wake chan struct{}
}

func (o *observer) heard(message) {}

func (o *observer) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Holders implements backend.Store. It looks when a script tells of a change, and when the holder's lease has run out.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		err := s.checkKey(name)
		if err == nil {
			err = s.openPatiently(ctx)
		}
		o := &observer{name: name, wake: make(chan struct{}, 1)}
		if err == nil {
			err = s.tail.listen(o)
		}
		if err != nil {
			if ctx.Err() == nil {
				yield(backend.Holder{}, err)
			}
			return
		}
		defer s.tail.leave(o)
		s.contenders.mu.Lock()
		s.contenders.observers[o] = struct{}{}
		s.contenders.mu.Unlock()
		s.tail.hearHeads()
		defer func() {
			s.contenders.mu.Lock()
			delete(s.contenders.observers, o)
			s.contenders.mu.Unlock()
		}()

		var wait backoff.Backoff
		var last backend.Holder
		for first := true; ; {
			h, left, err := s.holder(ctx, name)
			switch {
			case ctx.Err() != nil:
				return
			case s.life.Err() != nil:
				yield(backend.Holder{}, backend.ErrClosed)
				return
			case errors.Is(err, backend.ErrUnavailable):
				left = wait.Next()
			case err != nil:
				yield(backend.Holder{}, err)
				return
			default:
				wait.Reset()
				if first || h.Token != last.Token || !bytes.Equal(h.Value, last.Value) {
					first, last = false, backend.Holder{Token: h.Token, Value: bytes.Clone(h.Value)}
					if !yield(h, nil) {
						return
					}
				}
			}
			var expiry <-chan time.Time
			timer := time.NewTimer(left)
			if left > 0 {
				expiry = timer.C
			}
			select {
			case <-expiry:
			case <-o.wake:
			case <-ctx.Done():
			case <-s.life.Done():
			}
			timer.Stop()
		}
	}
}

// hearHeads subscribes to the messages about holders, if there is somebody who observes a lock and a connection to hear them
// by. Those who only wait for a lock are not to be woken by every change of its holder. The subscription's confirmation
// makes observers look again.
func (t *tail) hearHeads() {
	t.s.contenders.mu.Lock()
	observed := len(t.s.contenders.observers) > 0
	t.s.contenders.mu.Unlock()
	t.mu.Lock()
	sub := t.sub
	t.mu.Unlock()
	if !observed || sub == nil || !t.s.enter() {
		return // a later connection begins with it
	}
	go func() { // go-redis may hold it up
		defer t.s.calls.Done()
		_ = sub.add(t.s.life, t.s.names.heads) // an error ends the connection, and the next one tries again
	}()
}

// holder reads who holds, and how long its lease still lasts: 0 if nobody holds.
func (s *Store) holder(ctx context.Context, name string) (backend.Holder, time.Duration, error) {
	n := s.names.lock(name)
	reply, err := s.runRead(ctx, s.scripts.holder, []string{s.names.head, n.queue, n.contenders}, schema)
	if err != nil || status(reply) == "nobody" {
		return backend.Holder{}, 0, err
	}
	if len(reply) != 4 {
		return backend.Holder{}, 0, fmt.Errorf("%w: the holder of a lock", backend.ErrCorrupt)
	}
	token, err := strconv.ParseUint(text(reply[1]), 10, 64)
	if err != nil {
		return backend.Holder{}, 0, fmt.Errorf("%w: a fencing token", backend.ErrCorrupt)
	}
	h := backend.Holder{Token: token}
	if v := text(reply[2]); v != "" {
		h.Value = []byte(v)
	}
	return h, time.Duration(number(reply[3])+1) * time.Millisecond, nil
}
