package consulkv

import (
	"context"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// queueState is the queue of a lock, in order once sorted.
type queueState []queued

type queued struct {
	name           string
	create, modify uint64
	place          backend.Place
	value          []byte
}

// add adds an entry if it is a contender's: another program's, and one that
// its session has left behind, is nobody's place.
func (q queueState) add(name, session string, flags, create, modify uint64, value []byte) queueState {
	if place, ok := placeOf(flags); ok && session != "" {
		q = append(q, queued{name, create, modify, place, value})
	}
	return q
}

func (q queueState) sort() {
	slices.SortFunc(q, func(a, b queued) int {
		switch {
		case a.create < b.create:
			return -1
		case a.create > b.create:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
}

func (q queueState) places() []backend.Place {
	p := make([]backend.Place, len(q), len(q)+1)
	for i := range q {
		p[i] = q[i].place
	}
	return p
}

func (q queueState) find(name string) int {
	return slices.IndexFunc(q, func(e queued) bool { return e.name == name })
}

// readQueue reads a queue as it is now.
func (s *Store) readQueue(ctx context.Context, prefix string) (queueState, uint64, error) {
	resp, err := s.fetch(ctx, prefix, true, consistent, "")
	if err != nil {
		return nil, 0, err
	}
	defer resp.close()
	q, err := scanQueue(resp.body)
	return q, resp.index, err
}

func scanQueue(body io.Reader) (queueState, error) {
	d := newScanner(body)
	defer d.free()
	if err := d.list(); err != nil {
		return nil, unreadable(err)
	}
	var q queueState
	for {
		p, err := d.next()
		if err == io.EOF {
			q.sort()
			return q, nil
		}
		if err != nil {
			return nil, unreadable(err)
		}
		value, err := p.value()
		if err != nil {
			return nil, unreadable(err)
		}
		q = q.add(string(p.name), string(p.session), p.flags, p.create, p.modify, value)
	}
}

// Holders implements backend.Store. It holds one connection.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		if _, err := s.name(name); err != nil {
			yield(backend.Holder{}, err)
			return
		}
		var shown backend.Holder
		first, left := true, false
		var wait backoff.Backoff
		life, leave := s.living(ctx)
		defer leave()
		err := s.poll(life, s.lockPrefix(name), true, &wait, func(body io.Reader, _ uint64) (bool, error) {
			q, err := scanQueue(body)
			if err != nil {
				return false, err
			}
			var head backend.Holder
			if len(q) > 0 {
				head = backend.Holder{Value: q[0].value, Token: q[0].create}
			}
			if !first && head.Token == shown.Token && string(head.Value) == string(shown.Value) {
				return true, nil
			}
			first, shown = false, head
			head.Value = append([]byte(nil), head.Value...)
			left = !yield(head, nil)
			return !left, nil
		})
		switch {
		case err == nil || left || ctx.Err() != nil:
		case s.ctx.Err() != nil:
			yield(backend.Holder{}, backend.ErrClosed)
		default:
			yield(backend.Holder{}, err)
		}
	}
}

// living returns a context that ends with ctx and with the Store, and what lets go of it.
func (s *Store) living(ctx context.Context) (context.Context, func()) {
	life, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(backend.ErrClosed) })
	return life, func() { stop(); cancel(nil) }
}
