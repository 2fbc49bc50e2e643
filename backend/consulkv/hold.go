package consulkv

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

const (
	// minHold and maxHold are how long the agent holds a read that has
	// nothing to tell: it starts short and doubles. An agent does not notice
	// that a held read was abandoned: until its time is up it counts as one of
	// the 200 connections of its client's address. And there is one change
	// that the agent never tells: another program's recursive delete of more
	// than is watched. So an idle watch costs three requests a minute.
	minHold = time.Second
	maxHold = 20 * time.Second
	// holdGrace is how much later than asked the agent may answer before
	// the connection counts as dead; the agent itself adds up to a 16th.
	holdGrace = 10 * time.Second
)

// heldRead is a request that the agent answers when something has changed.
type heldRead struct {
	got    chan heldResult // one, buffered
	cancel context.CancelFunc
	passed bool // a later read was made meanwhile
}

type heldResult struct {
	resp *response
	err  error
}

// stop abandons the read. It may be nil.
func (h *heldRead) stop() {
	if h == nil {
		return
	}
	h.cancel()
	if r := <-h.got; r.err == nil {
		r.resp.close()
	}
}

// holdRead starts a read that the agent holds until what is at name has moved
// past index.
func (s *Store) holdRead(ctx context.Context, name string, recurse bool, index uint64, hold time.Duration) *heldRead {
	ctx, cancel := context.WithTimeout(ctx, hold+hold/16+holdGrace)
	h := &heldRead{got: make(chan heldResult, 1), cancel: cancel}
	query := waitParam + strconv.FormatInt(hold.Milliseconds(), 10) + "ms&index=" + strconv.FormatUint(index, 10)
	go func() {
		resp, err := s.fetch(ctx, name, recurse, "", query)
		if err == nil {
			body := resp.close
			resp.close = func() { body(); cancel() }
		} else {
			cancel()
		}
		h.got <- heldResult{resp, err}
	}()
	return h
}

// poll reads a native name or prefix, and again whenever it has changed, until
// see returns false or an error, which poll returns if it is final: that of ctx
// or ErrPermission. Others are waited out.
func (s *Store) poll(ctx context.Context, name string, recurse bool, wait *backoff.Backoff, see func(io.Reader, uint64) (bool, error)) error {
	return s.pollFrom(ctx, name, recurse, 0, wait, see)
}

func (s *Store) pollFrom(ctx context.Context, name string, recurse bool, from uint64, wait *backoff.Backoff, see func(io.Reader, uint64) (bool, error)) error {
	quiet := time.Duration(0)
	for hold := minHold; ; hold = min(2*hold, maxHold) {
		began := time.Now()
		more, index, err := s.pollOnce(ctx, name, recurse, from, hold, see)
		switch {
		case ctx.Err() != nil:
			return backend.ContextError(ctx)
		case errors.Is(err, backend.ErrPermission), errors.Is(err, backend.ErrInvalid), errors.Is(err, backend.ErrClosed):
			return err
		case err != nil:
			from = 0
			if !wait.Wait(ctx) {
				return backend.ContextError(ctx)
			}
			continue
		case !more:
			return nil
		}
		wait.Reset()
		if index < from {
			index = 0
		} else {
			index = max(index, 1)
		}
		from = index
		// An empty prefix wakes at every write anywhere.
		if time.Since(began) > time.Second {
			quiet = 0
		} else if quiet = min(max(2*quiet, time.Millisecond), maxPace); quiet > 4*time.Millisecond {
			t := time.NewTimer(quiet)
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
	}
}

func (s *Store) pollOnce(ctx context.Context, name string, recurse bool, from uint64, hold time.Duration, see func(io.Reader, uint64) (bool, error)) (more bool, index uint64, err error) {
	var resp *response
	if from == 0 {
		resp, err = s.fetch(ctx, name, recurse, consistent, "")
	} else {
		r := <-s.holdRead(ctx, name, recurse, from, hold).got
		resp, err = r.resp, r.err
	}
	if err != nil {
		return false, 0, err
	}
	defer resp.close()
	if resp.index < from {
		return true, resp.index, nil // not to be believed: look again, for certain
	}
	more, err = see(resp.body, resp.index)
	return more, resp.index, err
}
