package consulkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// A session is what the server ends by itself when it is not renewed, and with
// it the entries that it owns. It is bound to the agent's node, as every
// session is, but to none of the node's health checks: a node that is slow to
// answer gossip must not cost a lock.
//
// The server ends a session at twice its TTL after the last renewal
// (structs.SessionTTLMultiplier), and a new leader counts anew. So half of a
// lease is asked for; the lease that results is twice what was asked, at least
// 20 s on a stock server.

const (
	sessionPath   = "/v1/session/"
	maxSessionTTL = 24 * time.Hour // structs.SessionTTLMax
)

// lease is the lease that the server gives for one that is asked for.
func (s *Store) lease(asked time.Duration) (time.Duration, error) {
	if asked > 2*maxSessionTTL {
		return 0, fmt.Errorf("%w: a lease of %v, the most is %v", backend.ErrInvalid, asked, 2*maxSessionTTL)
	}
	asked = (asked + 2*time.Millisecond - 1).Truncate(2 * time.Millisecond)
	return max(asked, 2*s.o.MinSessionTTL), nil
}

// startSession makes a session of the given lease. One whose reply is lost
// owns nothing; it is looked for by its name and ended.
func (s *Store) startSession(ctx context.Context, lease time.Duration) (id string, err error) {
	name := "kv " + s.id + "-" + strconv.FormatUint(s.serial.Add(1), 36)
	body, err := json.Marshal(map[string]any{
		"Name":       name,
		"TTL":        (lease / 2).String(),
		"Behavior":   "delete",
		"LockDelay":  "0s", // entries are released in order, and guarded by their revision
		"NodeChecks": []string{},
	})
	if err != nil {
		return "", backend.Because(backend.ErrInvalid, err)
	}
	if s.ctx.Err() != nil {
		return "", backend.ErrClosed
	}
	// Once it is sent, Close does not interrupt it: who is not answered has to
	// search.
	text, _, err := s.session(ctx, "create", body, true)
	if err != nil {
		if errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrClosed) || ctx.Err() != nil {
			if !s.spawn(func() { s.takeBack(name) }) {
				s.takeBack(name) // Close waits for the caller, see detached
			}
		}
		return "", err
	}
	var reply struct{ ID string }
	if err := json.Unmarshal(text, &reply); err != nil || reply.ID == "" {
		return "", backend.Because(backend.ErrUnavailable, err)
	}
	return reply.ID, nil
}

// takeBackTries is how often a session is looked for that may have been made:
// the request may be overtaken by the one that looks for it.
const takeBackTries = 4

// takeBack ends a session that may have been made. One that cannot be found
// now ends by itself.
func (s *Store) takeBack(name string) {
	ctx, cancel := context.WithTimeout(s.late, cleanupTime)
	defer cancel()
	wait := backoff.Backoff{Min: 50 * time.Millisecond}
	for missed := 0; missed < takeBackTries; {
		id, err := s.findSession(ctx, name)
		switch {
		case errors.Is(err, backend.ErrPermission):
			return
		case err != nil:
		case id == "":
			missed++
		case s.endSession(ctx, id) == nil:
			return
		}
		if !wait.Wait(ctx) {
			return
		}
	}
}

// findSession returns the ID of the session of that name, or "".
func (s *Store) findSession(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	resp, err := s.send(ctx, request{method: http.MethodGet, path: sessionPath + "list", query: string(consistent), late: true})
	if err != nil {
		return "", err
	}
	defer resp.close()
	if resp.status != http.StatusOK {
		return "", resp.refused(false)
	}
	var all []struct{ ID, Name string }
	if err := json.NewDecoder(resp.body).Decode(&all); err != nil {
		return "", backend.Because(backend.ErrUnavailable, err)
	}
	for _, one := range all {
		if one.Name == name {
			return one.ID, nil
		}
	}
	return "", nil
}

// renewSession starts the lease anew, and reports false if there is no such
// session any more.
func (s *Store) renewSession(ctx context.Context, id string) (bool, error) {
	_, ok, err := s.session(ctx, "renew/"+id, nil, false)
	return ok, err
}

// endSession ends a session, and deletes what it owns in the same step.
func (s *Store) endSession(ctx context.Context, id string) error {
	_, _, err := s.session(ctx, "destroy/"+id, nil, true)
	return err
}

// dropSession ends a session that is of no use, trying until it has ended by
// itself.
func (s *Store) dropSession(id string, lease time.Duration) error {
	ctx, cancel := context.WithTimeout(s.late, lease)
	defer cancel()
	return s.retry(ctx, func(ctx context.Context) error { return s.endSession(ctx, id) })
}

// discard ends the session of a request that has failed with err. A server that
// does not answer holds up nobody: then it is ended in the background.
func (s *Store) discard(id string, lease time.Duration, err error) {
	silent := errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain)
	if !silent && s.endSession(s.late, id) == nil {
		return
	}
	drop := func() { _ = s.dropSession(id, lease) } // or it ends by itself, and nothing is bound to it
	if !s.spawn(drop) {
		drop() // Close waits for the caller, see detached
	}
}

// retry repeats f with pauses until it succeeds, is refused, or ctx ends.
func (s *Store) retry(ctx context.Context, f func(context.Context) error) error {
	var wait backoff.Backoff
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, backend.ErrPermission) || !wait.Wait(ctx) {
			return err
		}
	}
}

// session calls the session API. It is safe to repeat its calls, so a lost
// reply is no more than ErrUnavailable. ok is false for "no such session".
func (s *Store) session(ctx context.Context, what string, body []byte, late bool) (text []byte, ok bool, err error) {
	// Nothing that the caller asked for hangs on this request yet, so a server
	// that takes it and does not answer is as good as none.
	inner, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	resp, err := s.send(inner, request{method: http.MethodPut, path: sessionPath + what, body: body, late: late})
	if err != nil {
		if inner.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: no answer within %v", backend.ErrUnavailable, s.o.DialTimeout)
		}
		return nil, false, err
	}
	defer resp.close()
	switch resp.status {
	case http.StatusOK:
		text, err = io.ReadAll(resp.body)
		return text, true, err
	case http.StatusNotFound:
		return nil, false, nil
	}
	return nil, false, resp.refused(false)
}

// detached runs f in the background and returns what it returns, or the end of
// ctx if that comes first. f then has two seconds to see what the requests did
// that are under way, and undo runs if it succeeds after all.
func detached[T any](ctx context.Context, s *Store, f func(context.Context) (T, error), undo func(context.Context, T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var zero T
	if err := backend.ContextError(ctx); err != nil {
		return zero, err
	}
	got := make(chan result)
	run, abandon := context.WithCancel(context.WithoutCancel(ctx))
	started := s.spawn(func() {
		defer abandon()
		defer context.AfterFunc(ctx, func() {
			t := time.AfterFunc(cleanupTime, abandon)
			context.AfterFunc(run, func() { t.Stop() })
		})()
		v, err := f(run)
		select {
		case got <- result{v, err}:
		case <-ctx.Done():
			if err == nil {
				undo(s.late, v)
			}
		}
	})
	if !started {
		abandon()
		return zero, backend.ErrClosed
	}
	select {
	case r := <-got:
		return r.v, r.err
	case <-ctx.Done():
		return zero, backend.ContextError(ctx)
	}
}
