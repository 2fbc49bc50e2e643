package rediskv

import (
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
)

// seldom is how often the log is looked at although messages come: the tenth part of the tests of their connection.
const seldom = 10 * beat

// poll looks at the log, and at the keys that expire, when messages may have missed something: after every new connection
// for them, and each half second while there is none.
//
// On a connection that holds, Redis loses no message. It closes the connection of a reader that is too slow or loses its
// rights, says so when the slot of a sharded channel moves, and what goes silent is found by test. What is left makes no
// message at all: FLUSHALL, a restored backup, a writer without the right to publish, a former primary that is cut off from
// all others but not from this process, a server's clock that was set forward. For these the log is looked at now and then,
// and where that finds something, often for a while.
func (e *ear) poll(ctx context.Context) {
	for {
		if e.due() {
			e.look(ctx)
		}
		pause := beat
		if !e.hearing.Load() {
			pause = beat / 6
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(pause, e.seldom)):
		}
	}
}

// due reports whether to look at the log now. A test that has no answer yet is a reason: it may be the server that is away.
func (e *ear) due() bool {
	return !e.hearing.Load() || e.unsure.Load() || time.Since(e.health().LastContact) > beat+beat/2 ||
		time.Since(e.looked) >= e.seldom || time.Since(e.untold) < e.seldom
}

// look makes the delete events that are due, wakes the listeners if the log has moved without a message and whoever waits for
// a lock, and has the bookkeeping made anew if the server has lost it.
func (e *ear) look(ctx context.Context) {
	blind := e.unsure.Swap(false) || !e.hearing.Load()
	p, err := e.s.reap(ctx)
	if ctx.Err() != nil {
		return
	}
	e.connected(!errors.Is(err, backend.ErrUnavailable))
	if err == nil {
		if p.epoch != e.s.knownEpoch() && !e.s.namespace().readOnly {
			err = e.s.reopen(ctx) // tells the server that it has lost something
		}
		e.looked = time.Now()
		e.s.contenders.lookAgain() // the log does not tell of locks
		e.mu.Lock()
		moved := e.log != p.log
		e.log = p.log
		e.mu.Unlock()
		if moved {
			e.nudge()
			if !blind {
				e.untold = e.looked
			}
		}
	}
	if err != nil {
		e.unsure.Store(true)
	}
}
