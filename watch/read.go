package watch

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keys"
)

// Get returns the entry at key. A malformed key is one that is not there.
func (m *Mirror[T]) Get(key string) (kv.Entry[T], bool) {
	key, err := keys.Canonical(key)
	if err != nil {
		return kv.Entry[T]{}, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries.Get(kv.Entry[T]{Key: key})
}

// Len is how many entries there are.
func (m *Mirror[T]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries.Len()
}

// All yields the entries as they are now, in byte order of their keys. What
// changes during the loop does not show in it.
func (m *Mirror[T]) All() iter.Seq[kv.Entry[T]] { return m.Below("") }

// Below yields the entries strictly below prefix, as All does.
func (m *Mirror[T]) Below(prefix string) iter.Seq[kv.Entry[T]] {
	prefix, err := keys.CanonicalPrefix(prefix)
	if prefix != "" {
		prefix += "/"
	}
	return func(yield func(kv.Entry[T]) bool) {
		if err != nil {
			return // no key lies below what is no prefix
		}
		m.mu.Lock()
		entries := m.snapshot()
		m.mu.Unlock()
		entries.AscendGreaterOrEqual(kv.Entry[T]{Key: prefix}, func(e kv.Entry[T]) bool {
			return strings.HasPrefix(e.Key, prefix) && yield(e)
		})
	}
}

// snapshot returns the entries as they are, which nobody changes. mu is held.
func (m *Mirror[T]) snapshot() *tree[T] {
	if m.clone == nil {
		m.clone = m.entries.Clone()
	}
	return m.clone
}

// Sync returns when the mirror has all writes that were complete when it was
// called: a read after it is as fresh as one of the store. It costs one
// request. For a store that is away a ctx without a deadline waits five seconds,
// and then it is kv.ErrUnavailable.
func (m *Mirror[T]) Sync(ctx context.Context) error { return m.w.Sync(ctx) }

// Wait returns when the mirror has the write whose revision is rev: read your
// own write. It costs no request if the store is Lossless and the mirror has a
// later write already, and else that of Sync. A revision that no write has had
// is not waited for.
func (m *Mirror[T]) Wait(ctx context.Context, rev kv.Revision) error {
	contexts.Require(ctx)
	m.mu.RLock()
	// Only where events come in one order does one beyond rev say that rev
	// was applied.
	there := m.synced && m.w.Lossless() && m.whole > rev
	m.mu.RUnlock()
	if there {
		return nil
	}
	return m.Sync(ctx)
}

// Status tells how stale the mirror may be.
type Status struct {
	Synced    bool        // false while differences are being worked out
	Revision  kv.Revision // the highest that was applied
	kv.Health             // of the watch behind it
}

// Status tells how the mirror is doing.
func (m *Mirror[T]) Status() Status {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Status{Synced: m.synced, Revision: m.revision, Health: m.w.Health()}
}

// Lag is how long the store has not been reachable: 0 while it is.
func (m *Mirror[T]) Lag() time.Duration {
	if since := m.w.Health().DisconnectedSince; !since.IsZero() {
		return time.Since(since)
	}
	return 0
}
