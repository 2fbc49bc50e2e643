package locktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/lock"
)

// speechless has leaders speak whose time is over.
func speechless(e *env) {
	var cut shut
	s := e.open(kv.Intercept(cut.intercept))
	el := lock.NewElection(s, "e", lock.Lease(shortest(s)))
	first, err := el.Campaign(e.ctx(), "first")
	e.must("campaign", err)
	e.must("resign", first.Resign(e.ctx()))
	if err := first.Proclaim(e.ctx(), "resigned"); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("a proclamation of one who has resigned: %v", err)
	}
	if _, err := el.Leader(e.ctx()); !errors.Is(err, kv.ErrNotFound) {
		e.Errorf("the leader after the only one has resigned: %v", err)
	}
	again, err := el.Campaign(e.ctx(), "again")
	e.must("campaign again", err)
	if again.Token() <= first.Token() {
		e.Errorf("token %d after %d", again.Token(), first.Token())
	}
	cut.off()
	ends(e, "the leader is told of its loss", again.Done(), shortest(s)+lag)
	// The store may still have the place for a moment.
	if err := again.Proclaim(e.ctx(), "lost"); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("a proclamation of one who has lost: %v", err)
	}
	if err := again.Resign(e.ctx()); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("the resignation of one who has lost: %v", err)
	}
}

// values shows observers what may be shown, and no more.
func values(e *env) {
	s := e.open()
	most := s.Capabilities().MaxValueBytes
	el := lock.NewElection(s, "e")
	sees := func(want string) {
		e.Helper()
		if l, err := lock.NewElection(e.open(), "e").Leader(e.ctx()); err != nil || l.Value != want {
			e.Errorf("the leader shows %d bytes, want %d, %v", len(l.Value), len(want), err)
		}
	}
	largest := strings.Repeat("v", min(most, 2<<20))
	l, err := el.Campaign(e.ctx(), largest)
	e.must("campaign", err)
	sees(largest)
	e.must("proclaim", l.Proclaim(e.ctx(), ""))
	sees("")
	e.must("proclaim", l.Proclaim(e.ctx(), largest))
	if most <= 64<<20 { // beyond, a test should not allocate it
		over := strings.Repeat("v", most+1)
		if err := l.Proclaim(e.ctx(), over); !errors.Is(err, kv.ErrTooLarge) {
			e.Errorf("a proclamation of MaxValueBytes+1: %v", err)
		}
		if _, err := lock.TryLock(e.ctx(), s, "another", lock.Value(over)); !errors.Is(err, kv.ErrTooLarge) {
			e.Errorf("a lock with a value of MaxValueBytes+1: %v", err)
		}
	}
	sees(largest)
	if err := l.Err(); err != nil {
		e.Errorf("the leadership after what was refused: %v", err)
	}
	e.must("resign", l.Resign(e.ctx()))
}

// laggard is a store whose Holders tells of an earlier leader in between, as
// that of a client does that has moved to a server which lags behind.
type laggard struct{ backend.Store }

func (l laggard) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		var before *backend.Holder
		for h, err := range l.Store.Holders(ctx, name) {
			if !yield(h, err) {
				return
			}
			if err != nil || h.Token == 0 {
				continue
			}
			if before != nil && before.Token < h.Token && (!yield(*before, nil) || !yield(h, nil)) {
				return
			}
			before = &h
		}
	}
}

func orderly(e *env) {
	raw := e.h.Open(e.T, e.root)
	observing := kv.New(laggard{raw})
	defer observing.Close()
	if !observing.Capabilities().DurableFence {
		e.Log("an older token may be a later one: DurableFence is unset")
		return
	}
	seen := make(chan lock.Leader, 100)
	ctx, cancel := context.WithCancel(e.ctx())
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		for l, err := range lock.NewElection(observing, "e").Observe(ctx) {
			if err == nil {
				seen <- l
			}
		}
	}()
	for i := range 3 {
		want := fmt.Sprint("leader ", i)
		l, err := lock.NewElection(e.open(), "e").Campaign(e.ctx(), want)
		e.must("campaign", err)
		if got := soon(e, "the observer", seen); got.Value != want {
			e.Errorf("the observer saw %q, want %q", got.Value, want)
		}
		e.must("resign", l.Resign(e.ctx()))
	}
}
