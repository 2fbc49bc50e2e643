package rediskv

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// tail is the one ear that a Store has for changes: a connection that hears the messages of the scripts and, where the
// server sends them, keyspace notifications. Messages are hints. They wake watches and contenders, which then read what
// happened. It runs while somebody listens. See poll for what messages do not tell.
type tail struct {
	s      *Store
	seldom time.Duration // see poll

	mu        sync.Mutex
	listeners map[listener]struct{}
	stop      context.CancelFunc // nil while it does not run
	sub       *subscription      // that messages come by; nil while there is none
	contact   time.Time
	since     time.Time // disconnected; zero while connected
}

// ear is one run of the tail. When the last listener goes and another one comes, the next run begins while the one before
// it ends.
type ear struct {
	*tail
	hearing atomic.Bool   // there is a connection for messages
	unsure  atomic.Bool   // messages may have been lost since the last look
	stir    chan struct{} // there is something in dirty

	// For poll alone: when a look last succeeded, and when one last found a change that no message had told.
	looked, untold time.Time

	mu    sync.Mutex
	log   string              // its end, as the last message or look told; "" before the first
	dirty map[string]struct{} // keys to look at
}

// listener is somebody who waits for changes.
type listener interface {
	// heard is called with a message about the log. It must not block.
	heard(m message)
	// nudge is called when messages may have been lost.
	nudge()
}

// message tells of one script's changes: see commit in lua/log.lua.
type message struct {
	before, after string
	keys          []string // nil: too many to name
}

const (
	// beat is how often a connection is tested.
	beat = 3 * time.Second
	// silence is how long a connection may say nothing, answers to tests included, until it is given up.
	silence = 3 * beat
	// gather is how long notifications are collected before their keys are looked at.
	gather = 5 * time.Millisecond
	// maxDirty is how many notifications are remembered; beyond, everything is looked at.
	maxDirty = 10_000
)

// listen registers l, and starts the tail if it is the first.
func (t *tail) listen(l listener) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop == nil {
		if !t.s.enter() {
			return backend.ErrClosed
		}
		ctx, stop := context.WithCancel(t.s.life)
		t.stop = stop
		t.listeners = map[listener]struct{}{}
		t.contact, t.since = time.Now(), time.Time{}
		e := &ear{tail: t, dirty: map[string]struct{}{}, stir: make(chan struct{}, 1)}
		go e.run(ctx)
	}
	t.listeners[l] = struct{}{}
	return nil
}

// leave takes l out, and stops the tail if l was the last. Its end is not waited for here, since go-redis can hold it up,
// but by Close of the Store.
func (t *tail) leave(l listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.listeners, l)
	if len(t.listeners) == 0 && t.stop != nil {
		t.stop()
		t.stop = nil
	}
}

func (t *tail) health() backend.Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	return backend.Health{LastContact: t.contact, DisconnectedSince: t.since}
}

func (t *tail) connected(yes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if yes {
		t.contact, t.since = time.Now(), time.Time{}
	} else if t.since.IsZero() {
		t.since = time.Now()
	}
}

func (e *ear) run(ctx context.Context) {
	defer e.s.calls.Done()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { e.poll(ctx) })
	work.Go(func() { e.settleDirty(ctx) })
	var wait backoff.Backoff
	for ctx.Err() == nil {
		if e.receive(ctx) {
			wait.Reset()
		}
		wait.Wait(ctx)
	}
}

// receive hears messages until the connection fails, and reports whether there was one.
func (e *ear) receive(ctx context.Context) (worked bool) {
	sub := e.s.subscribe(ctx)
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // Receive does not honour ctx
	defer func() {
		stop()
		sub.Close()
	}()
	channels := []string{e.s.names.events, e.s.names.wakes + e.s.self}
	if err := sub.add(ctx, channels...); err != nil {
		return false
	}
	defer e.offer(&sub)()
	e.hearHeads()
	expected := len(channels)
	foreign := e.s.Capabilities().ForeignEvents
	keyspace := ""
	if foreign {
		pattern, _ := e.s.names.keyspace(database(e.s.client))
		if err := sub.PSubscribe(ctx, pattern); err != nil {
			return false
		}
		expected++
		keyspace, _, _ = strings.Cut(pattern, ":")
		keyspace += ":"
	}
	alive, tests := context.WithCancel(ctx)
	var testing sync.WaitGroup
	defer testing.Wait()
	defer tests()
	testing.Go(func() { test(alive, sub) })
	for confirmed := 0; ; {
		got, err := sub.ReceiveTimeout(ctx, silence)
		if err != nil {
			return confirmed >= expected
		}
		e.connected(true)
		switch m := got.(type) {
		case *redis.Subscription:
			if strings.HasSuffix(m.Kind, "unsubscribe") {
				return true // the slot has moved to another server
			}
			if m.Channel == e.s.names.heads {
				e.s.contenders.headChanged("")
				continue
			}
			switch confirmed++; {
			case confirmed == expected:
				// What happened before now may have gone unheard.
				e.unsure.Store(true)
				e.hearing.Store(true)
				defer e.hearing.Store(false)
				e.nudge()
				if foreign {
					e.mark("")
				}
			case confirmed > expected:
				return true // go-redis has subscribed on another connection without a word
			}
		case *redis.Message:
			switch {
			case m.Channel == e.s.names.events:
				e.event(m.Payload)
			case m.Channel == e.s.names.wakes+e.s.self:
				e.s.contenders.wake(m.Payload)
			case m.Channel == e.s.names.heads:
				e.s.contenders.headChanged(m.Payload)
			case keyspace != "" && strings.HasPrefix(m.Channel, keyspace):
				e.notified(m.Channel[len(keyspace):])
			}
		}
	}
}

// offer lets observers of locks have their channel heard on sub, until the function that it returns is called.
func (t *tail) offer(sub *subscription) (withdraw func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sub = sub
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.sub == sub {
			t.sub = nil
		}
	}
}

// test makes the server say something, so that a connection that went silent is noticed. It closes one that fails, lest
// go-redis makes another one in its place, and what was said meanwhile is missed.
func test(ctx context.Context, sub subscription) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if sub.Ping(ctx) != nil {
				sub.Close()
				return
			}
		}
	}
}

// event passes on what a script has published.
func (e *ear) event(payload string) {
	f := strings.SplitN(payload, " ", 4)
	if len(f) != 4 {
		return // the mark of a probe
	}
	m := message{before: f[0], after: f[1]}
	if f[3] != "" {
		m.keys = strings.Split(f[3], "\x00")
	}
	if ms, ok := parseMilliseconds(f[2]); ok {
		e.s.reaper.expiresIn(time.Duration(ms) * time.Millisecond)
	}
	e.mu.Lock()
	e.log = m.after
	for _, key := range m.keys {
		delete(e.dirty, key) // the script has looked at the key itself
	}
	e.mu.Unlock()
	e.tail.heard(m)
}

func (t *tail) heard(m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.listeners {
		l.heard(m)
	}
}

func (t *tail) nudge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.listeners {
		l.nudge()
	}
}

// notified notes that a key of that native name was changed, perhaps by a script of this library: then the script's
// message follows on the same connection and takes the note back.
func (e *ear) notified(native string) {
	key, ok := e.s.names.space.Key(native)
	if !ok || len(key) > e.s.caps.MaxKeyBytes {
		if !e.s.names.space.Reserved(native) {
			e.s.skipped(1, native)
		}
		return
	}
	e.mark(key)
}

// mark notes a key to look at; "" is all of them.
func (e *ear) mark(key string) {
	e.mu.Lock()
	if len(e.dirty) >= maxDirty {
		clear(e.dirty)
		key = ""
	}
	e.dirty[key] = struct{}{}
	e.mu.Unlock()
	select {
	case e.stir <- struct{}{}:
	default:
	}
}

// settleDirty looks at the keys that notifications name.
func (e *ear) settleDirty(ctx context.Context) {
	var wait backoff.Backoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.stir:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
		}
		e.mu.Lock()
		keys := make([]string, 0, len(e.dirty))
		for key := range e.dirty {
			keys = append(keys, key)
		}
		clear(e.dirty)
		e.mu.Unlock()
		for len(keys) > 0 {
			var err error
			if slices.Contains(keys, "") {
				keys = nil
				_, err = e.s.adopt(ctx, "")
			} else {
				batch := keys[:min(len(keys), settleBatch)]
				_, _, err = e.s.settle(ctx, batch, false)
				keys = keys[len(batch):]
			}
			if err == nil {
				wait.Reset()
				continue
			}
			e.mark("") // nothing is forgotten
			if !wait.Wait(ctx) {
				return
			}
			break
		}
	}
}
