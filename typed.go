package kv

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/codec"
)

// Typed is a view of a store whose values are T, through a codec. It does no
// I/O of its own and needs no closing. All methods are safe for concurrent
// use. Keys are relative to the view: see [Store] for their form.
//
// A stored value that does not decode is an error that matches *codec.Error,
// with the key and the revision, on that one entry or event; a List or Watch
// goes on after it.
type Typed[T any] struct {
	r reader[T]
}

// NewTyped returns a typed view of s below prefix; "" is all of s. It does no
// I/O. A malformed prefix is ErrInvalidKey from every call. A nil codec panics.
func NewTyped[T any](s *Store, c codec.Codec[T], prefix string) *Typed[T] {
	if c == nil {
		panic("kv: NewTyped: nil codec")
	}
	return &Typed[T]{reader[T]{s: s.Sub(prefix), c: c}}
}

// Sub returns a view of t below prefix.
func (t *Typed[T]) Sub(prefix string) *Typed[T] {
	return &Typed[T]{reader[T]{s: t.r.s.Sub(prefix), c: t.r.c}}
}

// Store returns the view of bytes below the typed one.
func (t *Typed[T]) Store() *Store { return t.r.s }

// In returns tx under the keys and the codec of t. Both must share a store,
// else Commit is ErrInvalid.
func (t *Typed[T]) In(tx *Txn) TxnView[T] { return inTxn(tx, t.r) }

// buffers holds encoded values that are on their way to the store. A driver
// keeps nothing of a value once the call has returned (package backend).
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled keeps a rare huge value from staying in memory for ever.
const maxPooled = 64 << 10

// Get returns the entry at key. Errors: ErrNotFound, ErrInvalidKey,
// *codec.Error, ErrUnavailable, ErrPermission, ErrClosed, the context's.
func (t *Typed[T]) Get(ctx context.Context, key string, opts ...GetOption) (Entry[T], error) {
	e, err := t.r.s.get(ctx, key, getOptions(opts))
	if err != nil {
		return Entry[T]{}, err
	}
	return t.r.got(OpGet, e)
}

// got converts an entry, and wraps the error if its value does not decode.
func (r reader[T]) got(op Op, e backend.Entry) (Entry[T], error) {
	out, err := r.entry(e, true)
	return out, r.s.core.fail(op, e.Key, err)
}

// GetMany returns what is at each of keys, in their order. It is one request
// where the store has one, and a snapshot only where that request is. A value
// that does not decode is an error of its Lookup, not of the call. Errors: as
// for Get, without ErrNotFound.
func (t *Typed[T]) GetMany(ctx context.Context, keys []string, opts ...GetOption) ([]Lookup[T], error) {
	es, err := t.r.s.getMany(ctx, keys, getOptions(opts))
	if err != nil {
		return nil, err
	}
	return t.r.lookups(keys, es), nil
}

// Exists reports whether there is such a key. Errors: as for Get, without
// ErrNotFound and *codec.Error.
func (t *Typed[T]) Exists(ctx context.Context, key string, opts ...GetOption) (bool, error) {
	return t.r.s.exists(ctx, key, getOptions(opts))
}

// Put writes v at key, whatever is there. Errors: ErrInvalidKey, ErrInvalid,
// ErrTooLarge (all before any I/O), the codec's, ErrUncertain, ErrUnavailable,
// ErrPermission, ErrClosed, the context's; with If *CheckError.
func (t *Typed[T]) Put(ctx context.Context, key string, v T, opts ...WriteOption) (Entry[T], error) {
	return t.r.write(ctx, OpPut, key, v, backend.Always, 0, opts)
}

// Create writes v at key if there is no such key, else ErrExists. Errors
// besides: as for Put.
func (t *Typed[T]) Create(ctx context.Context, key string, v T, opts ...WriteOption) (Entry[T], error) {
	return t.r.write(ctx, OpCreate, key, v, backend.Absent, 0, opts)
}

// Update writes v at key if that is at revision rev, else ErrConflict, also
// when the key is gone. Revision 0 is ErrInvalid. Errors besides: as for Put.
func (t *Typed[T]) Update(ctx context.Context, key string, v T, rev Revision, opts ...WriteOption) (Entry[T], error) {
	return t.r.write(ctx, OpUpdate, key, v, backend.AtRevision, rev, opts)
}

// write encodes v and puts it.
func (r reader[T]) write(ctx context.Context, op Op, key string, v T, cond backend.Condition, rev Revision, opts []WriteOption) (Entry[T], error) {
	s := r.s
	full, err := s.full(op, key)
	if err != nil {
		return Entry[T]{}, err
	}
	o, err := s.core.writeOptions(opts)
	if err != nil {
		return Entry[T]{}, s.core.fail(op, full, err)
	}
	p := backend.PutOptions{If: cond, Revision: rev, TTL: o.ttl}
	var e backend.Entry
	if r.c == nil {
		e, err = s.put(ctx, op, full, *any(&v).(*[]byte), p, o.checks)
	} else {
		buf := buffers.Get().(*[]byte)
		var value []byte
		if value, err = r.c.Append((*buf)[:0], v); err != nil {
			err = s.core.fail(op, full, err)
		} else {
			e, err = s.put(ctx, op, full, value, p, o.checks)
			if cap(value) <= maxPooled {
				*buf = value
			}
		}
		buffers.Put(buf)
	}
	if err != nil {
		return Entry[T]{}, err
	}
	return Entry[T]{Key: s.relative(full), Value: v, Revision: e.Revision, Created: e.Created, Expires: e.Expires}, nil
}

// Modify reads key, lets f change the entry's Value, and writes it back if
// nobody else wrote in between, else tries again, a little later each time,
// until ctx ends: no update is lost. f may run several times. The entry's TTL
// stays as it is unless the option TTL is given. An absent key is ErrNotFound
// or, with Upsert, an entry of Revision 0 for f to fill. An error of f ends
// the call and is matched by its error. Errors besides: as for Get and Put;
// ErrUncertain is not tried again, as the change could be applied twice.
func (t *Typed[T]) Modify(ctx context.Context, key string, f func(*Entry[T]) error, opts ...ModifyOption) (Entry[T], error) {
	return t.r.modify(ctx, key, f, opts)
}

func (r reader[T]) modify(ctx context.Context, key string, f func(*Entry[T]) error, opts []ModifyOption) (Entry[T], error) {
	var last Entry[T]
	e, err := r.s.modify(ctx, key, opts, func(cur backend.Entry) ([]byte, error) {
		if cur.Revision == 0 {
			last = Entry[T]{Key: r.s.relative(cur.Key)}
			if fresh, ok := r.c.(interface{ New() T }); ok {
				last.Value = fresh.New()
			}
		} else {
			var err error
			if last, err = r.got(OpModify, cur); err != nil {
				return nil, err
			}
		}
		if err := f(&last); err != nil {
			return nil, err
		}
		return encode(r.c, nil, last.Value)
	})
	if err != nil {
		return Entry[T]{}, err
	}
	return Entry[T]{Key: r.s.relative(e.Key), Value: last.Value, Revision: e.Revision, Created: e.Created, Expires: e.Expires}, nil
}

// Absent is the check that there is no such key, for [If] and [Txn.If] of any
// view of the same store: it fails with ErrExists. It does no I/O. A malformed
// key is ErrInvalidKey from the call that is given the check, before any I/O.
func (t *Typed[T]) Absent(key string) Check { return t.r.s.Absent(key) }

// Present is the check that there is such a key, else ErrNotFound: see
// [Typed.Absent].
func (t *Typed[T]) Present(key string) Check { return t.r.s.Present(key) }

// AtRevision is the check that key is at revision rev, else ErrConflict, also
// when the key is gone: see [Typed.Absent]. Revision 0 is ErrInvalid.
func (t *Typed[T]) AtRevision(key string, rev Revision) Check { return t.r.s.AtRevision(key, rev) }

// Delete removes key and leaves what lies below it. Errors: ErrNotFound when
// there is no key, with IfRevision ErrConflict; ErrInvalidKey, ErrUncertain,
// ErrUnavailable, ErrPermission, ErrClosed, the context's; with If
// *CheckError.
func (t *Typed[T]) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	return t.r.s.delete(ctx, key, opts)
}

// DeletePrefix removes every key strictly below prefix and returns how many
// that were, also beside an error. Each makes its event. It is one step where
// Capabilities.AtomicDeletePrefix is set. "" is everything in the view, and
// ErrInvalid where that is a whole store without a prefix. Errors besides:
// ErrInvalidKey, ErrUncertain, ErrUnavailable, ErrPermission, ErrClosed, the
// context's.
func (t *Typed[T]) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	return t.r.s.deletePrefix(ctx, prefix)
}

// List yields the entries strictly below prefix in byte order of their keys;
// "" is everything in the view. Nothing there is an empty sequence. The
// sequence ends after its first error, one that matches *codec.Error
// excepted, which comes with the entry's key and revision. A loop that is left
// early leaves nothing behind. Where Capabilities.SnapshotList is set the
// sequence is a snapshot; elsewhere a key that is there throughout is yielded
// exactly once. Errors: ErrInvalidKey, ErrInvalid, ErrUnavailable,
// ErrPermission, ErrClosed, the context's, and ErrHistoryLost in the middle of a
// long list whose snapshot the store has not kept.
func (t *Typed[T]) List(ctx context.Context, prefix string, opts ...ListOption) iter.Seq2[Entry[T], error] {
	return t.r.list(ctx, prefix, opts)
}

// Watch opens an event stream over what List of prefix covers: see [Watch].
// When it returns, every write that starts from then on is seen. ctx bounds
// the call and the stream. Errors: ErrInvalidKey, ErrInvalid, ErrUnavailable,
// ErrPermission, ErrClosed, the context's; with Resume errors.ErrUnsupported
// and ErrHistoryLost.
func (t *Typed[T]) Watch(ctx context.Context, prefix string, opts ...WatchOption) (*Watch[T], error) {
	full, err := t.r.s.fullPrefix(OpWatch, prefix)
	if err != nil {
		return nil, err
	}
	return t.r.watch(ctx, full, false, opts)
}

// WatchKey watches the one key, which need not exist. Errors: as for Watch.
func (t *Typed[T]) WatchKey(ctx context.Context, key string, opts ...WatchOption) (*Watch[T], error) {
	full, err := t.r.s.full(OpWatch, key)
	if err != nil {
		return nil, err
	}
	return t.r.watch(ctx, full, true, opts)
}

// Register writes v at key and keeps the key alive until Release, until the
// store closes, or until it is lost: see [Registration]. ctx bounds the call
// only. When the process dies the key goes within ttl, raised to
// Capabilities.MinLease, plus Capabilities.TTLSlack. Errors: as for Put; with
// IfAbsent ErrExists.
func (t *Typed[T]) Register(ctx context.Context, key string, v T, ttl time.Duration, opts ...RegisterOption) (*Registration[T], error) {
	return t.r.register(ctx, key, v, ttl, opts)
}
