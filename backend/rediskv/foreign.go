package rediskv

import (
	"context"
	"fmt"
	"strconv"

	"github.com/polykv/kv/backend"
)

// settle adopts what other programs did to keys, and notices what has expired. It returns how many keys differed from
// their records and, if asked, what they hold now.
func (s *Store) settle(ctx context.Context, keys []string, answer bool) ([]pair, int64, error) {
	how := ""
	if answer {
		how = "answer"
	}
	return s.settleAs(ctx, keys, how)
}

// settleDue is settle for keys that have expired. It also counts those that it found to be gone without a trace.
func (s *Store) settleDue(ctx context.Context, keys []string) (int64, error) {
	_, n, err := s.settleAs(ctx, keys, "due")
	return n, err
}

// settleAs runs lua/settle.lua; how is its ARGV[7].
func (s *Store) settleAs(ctx context.Context, keys []string, how string) ([]pair, int64, error) {
	names, args := s.frame(2 * len(keys))
	args = append(args, how)
	for _, k := range keys {
		names = append(names, s.names.value(k), s.names.record(k))
		args = append(args, k)
	}
	reply, err := s.runRead(ctx, s.scripts.settle, names, args...) // a second time does nothing
	if err != nil {
		return nil, 0, err
	}
	if len(reply) < 2 || how == "answer" && len(reply) != 2+2*len(keys) {
		return nil, 0, fmt.Errorf("%w: answer to settle", backend.ErrCorrupt)
	}
	return pairs(reply[2:]), number(reply[1]), nil
}

// Adopt implements backend.Store: one pass over the index, for keys that are known, and one SCAN of the database, for
// those that are not.
func (s *Store) Adopt(ctx context.Context, prefix string) (int64, error) {
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	return s.adopt(ctx, prefix)
}

// overlook makes the index of keys complete, for calls that go through it, where the server tells what other programs
// do: the first time by looking at everything, and from then on by listening, until the Store is closed.
func (s *Store) overlook(ctx context.Context) error {
	if !s.namespace().foreignEvents {
		return nil
	}
	s.mu.Lock()
	done := s.overlooked
	s.mu.Unlock()
	if done {
		return nil
	}
	if err := s.tail.listen(keeper{}); err != nil { // first, so that nothing comes between
		return err
	}
	if err := s.adoptAll(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.overlooked = true
	s.mu.Unlock()
	return nil
}

// keeper listens for nobody, and so keeps the tail running.
type keeper struct{}

func (keeper) heard(message) {}
func (keeper) nudge()        {}

const (
	settleBatch = 200
	scanCount   = 1000
)

// adoption is one look at everything.
type adoption struct {
	done chan struct{}
	err  error // once done is closed
}

// adoptAll adopts what is below the root. Calls that come meanwhile wait for the same look, and it goes on when they give up:
// in a large database it may take longer than any of them has.
func (s *Store) adoptAll(ctx context.Context) error {
	s.mu.Lock()
	a := s.adopting
	if a == nil && !s.closed {
		a = &adoption{done: make(chan struct{})}
		s.adopting = a
		s.calls.Go(func() {
			_, a.err = s.adopt(s.life, "")
			s.mu.Lock()
			s.adopting = nil
			s.mu.Unlock()
			close(a.done)
		})
	}
	s.mu.Unlock()
	if a == nil {
		return backend.ErrClosed
	}
	select {
	case <-a.done:
		if s.life.Err() != nil {
			return backend.ErrClosed
		}
		return a.err
	case <-ctx.Done():
		return backend.ContextError(ctx)
	case <-s.life.Done():
		return backend.ErrClosed
	}
}

func (s *Store) adopt(ctx context.Context, prefix string) (int64, error) {
	var n int64
	for from := newCursor(prefix, ""); ; {
		known, err := s.index(ctx, from, settleBatch)
		if err != nil {
			return n, err
		}
		if len(known) == 0 {
			break
		}
		_, adopted, err := s.settle(ctx, known, false)
		n += adopted
		if err != nil {
			return n, err
		}
		if len(known) < settleBatch {
			break
		}
		from = from.after(known[len(known)-1])
	}
	scanned, err := s.scan(ctx, prefix)
	return n + scanned, err
}

func (s *Store) scan(ctx context.Context, prefix string) (int64, error) {
	node := s.client
	if s.cluster != nil {
		master, err := s.cluster.MasterForKey(ctx, s.names.head) // one slot, one server
		if err != nil {
			return 0, readError(ctx, err)
		}
		node = master
	}
	var n, skipped int64
	var example string
	for position := "0"; ; {
		w := &wire{text: position}
		reply, _, err := s.send(ctx, node, w,
			[]any{"scan", w, "match", globEscape(s.names.space.Prefix(prefix)) + "*", "count", scanCount, "type", "string"})
		if err != nil {
			return n, readError(ctx, err)
		}
		answer, _ := reply.([]any)
		if len(answer) != 2 {
			return n, fmt.Errorf("%w: answer to SCAN", backend.ErrCorrupt)
		}
		found, _ := answer[1].([]any)
		var strays []string
		for _, f := range found {
			native := text(f)
			key, ok := s.names.space.Key(native)
			switch {
			case ok && len(key) <= s.caps.MaxKeyBytes:
				strays = append(strays, key)
			case !s.names.space.Reserved(native):
				skipped++
				example = native
			}
		}
		for len(strays) > 0 {
			batch := strays[:min(len(strays), settleBatch)]
			_, adopted, err := s.settle(ctx, batch, false)
			n += adopted
			if err != nil {
				return n, err
			}
			strays = strays[len(batch):]
		}
		if position = text(answer[0]); position == "0" {
			break
		}
	}
	s.skipped(skipped, example)
	return n, nil
}

// ForeignNames is how many times names below the root were met and skipped because they are no keys: "a//b", "dir/", what
// is not UTF-8. They are met when the store looks at everything, as Adopt does, and in notifications.
func (s *Store) ForeignNames() int64 { return s.foreign.Load() }

// skipped counts names that are no keys, and reports the first.
func (s *Store) skipped(n int64, example string) {
	if n > 0 && s.foreign.Add(n) == n {
		s.opt.Logger.Warn("redis: names below the root that are no keys are skipped", "count", n, "example", strconv.Quote(example))
	}
}
