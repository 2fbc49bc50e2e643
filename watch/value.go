package watch

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/contexts"
)

// Value is one key's live value: a configuration that follows the store.
// Methods are safe for concurrent use.
type Value[T any] struct {
	w       *kv.Watch[T]
	absent  T
	bad     func(error)
	cancel  context.CancelFunc
	done    chan struct{}
	now     atomic.Pointer[T]
	closing atomic.Bool

	mu      sync.Mutex
	changed chan struct{}
	err     error
}

// NewValue opens a value of the key of src and returns once it has the present
// one, which ctx bounds. While there is no such key the value is absent. Errors:
// those of WatchKey, and *codec.Error if the present value does not decode. A
// later one that does not leaves the last good one in place: see OnBadValue.
func NewValue[T any](ctx context.Context, src KeySource[T], key string, absent T, opts ...Option) (*Value[T], error) {
	contexts.Require(ctx)
	var o options
	for _, opt := range opts {
		if opt != nil {
			o = opt.set(o)
		}
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	w, err := src.WatchKey(life, key, kv.FromSnapshot())
	v := &Value[T]{w: w, absent: absent, bad: o.bad, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	v.now.Store(&v.absent)
	for synced := false; err == nil && !synced; {
		var ev kv.Event[T]
		if ev, err = w.Next(life); err == nil {
			v.apply(ev)
			synced = ev.Kind == kv.Synced
		}
	}
	if err = opened(ctx, stop, err); err != nil {
		cancel()
		if w != nil {
			w.Close()
		}
		return nil, err
	}
	go v.run()
	return v, nil
}

func (v *Value[T]) run() {
	defer close(v.done)
	defer v.w.Close()
	for {
		ev, err := v.w.Next(context.Background())
		switch {
		case err == nil:
			v.apply(ev)
		case bad(err):
			if v.bad != nil {
				v.bad(err)
			}
		default:
			if v.closing.Load() {
				err = nil
			}
			v.mu.Lock()
			v.err = err
			v.mu.Unlock()
			return
		}
	}
}

func (v *Value[T]) apply(ev kv.Event[T]) {
	switch ev.Kind {
	case kv.Existing, kv.Created, kv.Updated:
		v.now.Store(&ev.Value)
	case kv.Deleted:
		v.now.Store(&v.absent)
	default:
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Load returns the last value that decoded, or what stands for an absent key.
// It does no I/O and takes no lock. What it points to is shared and must not be
// changed.
func (v *Value[T]) Load() T { return *v.now.Load() }

// Changed returns a channel that is closed at the next change. Take it before
// Load, and no change is missed.
func (v *Value[T]) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Sync returns when the value is as fresh as a read of the store. What it costs
// and how long it waits: see Mirror.Sync.
func (v *Value[T]) Sync(ctx context.Context) error { return v.w.Sync(ctx) }

// Health tells how stale the value may be: when the store was last heard, and
// since when it is not reachable.
func (v *Value[T]) Health() kv.Health { return v.w.Health() }

// Done is closed when the value follows the store no longer; Load goes on to
// return the last one.
func (v *Value[T]) Done() <-chan struct{} { return v.done }

// Err is nil while the value follows the store and after Close, and otherwise
// why it stopped: kv.ErrClosed when the store was closed, kv.ErrPermission.
func (v *Value[T]) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Close ends the value and waits for its goroutine: once it has returned, no
// function that OnBadValue was given runs or will. It is idempotent, and not to
// be called by such a function, which it would wait for.
func (v *Value[T]) Close() error {
	v.closing.Store(true)
	v.w.Close()
	<-v.done
	v.cancel()
	return nil
}
