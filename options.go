package kv

import (
	"context"
	"log/slog"
	"time"

	"github.com/polykv/kv/backend"
)

// Options are passed by value and given out as interfaces, one for each
// operation, so that an option in the wrong place does not compile; an option
// that serves several operations implements their union. nil is no option.
type (
	// Option configures a store: New, Drivers.Open.
	Option interface {
		store(storeOptions) storeOptions
	}
	// GetOption goes with Get, GetMany and Exists.
	GetOption interface {
		get(backend.GetOptions) backend.GetOptions
	}
	// WriteOption goes with Put, Create and Update, in transactions too.
	WriteOption interface {
		write(writeOptions) writeOptions
	}
	// ModifyOption goes with Modify.
	ModifyOption interface {
		modify(writeOptions) writeOptions
	}
	// DeleteOption goes with Delete, in transactions too.
	DeleteOption interface {
		delete(deleteOptions) deleteOptions
	}
	// ListOption goes with List.
	ListOption interface {
		list(backend.ListOptions) backend.ListOptions
	}
	// WatchOption goes with Watch and WatchKey.
	WatchOption interface {
		watch(watchOptions) watchOptions
	}
	// RegisterOption goes with Register.
	RegisterOption interface {
		register(registerOptions) registerOptions
	}

	// ReadOption goes with Get, GetMany, Exists and List.
	ReadOption interface {
		GetOption
		ListOption
	}
	// StreamOption goes with List, Watch and WatchKey.
	StreamOption interface {
		ListOption
		WatchOption
	}
	// PutOption goes with Put, Create, Update and Modify.
	PutOption interface {
		WriteOption
		ModifyOption
	}
	// CheckOption goes with Put, Create, Update, Modify and Delete.
	CheckOption interface {
		PutOption
		DeleteOption
	}
)

// DefaultWatchBuffer is how many bytes of events a watch holds for its reader
// unless WatchBuffer says otherwise.
const DefaultWatchBuffer = 4 << 20

type storeOptions struct {
	prefix      string
	logger      *slog.Logger
	intercept   Interceptor
	portable    bool
	watchBuffer int
}

type writeOptions struct {
	ttl    time.Duration
	ttlSet bool
	upsert bool
	checks []Check
}

type deleteOptions struct {
	revision Revision
	cond     backend.Condition
	checks   []Check
}

type watchOptions struct {
	backend.WatchOptions
	resume   bool // Resume was given, with whatever token
	keysOnly bool
	progress bool
}

type registerOptions struct{ absent bool }

type storeOption func(storeOptions) storeOptions

func (f storeOption) store(o storeOptions) storeOptions { return f(o) }

// Prefix keeps everything of the store below prefix.
func Prefix(prefix string) Option {
	return storeOption(func(o storeOptions) storeOptions { o.prefix = prefix; return o })
}

// Logger lets the store report what no error can: watches that reconnect,
// foreign keys that are skipped. Without it the store is silent.
func Logger(l *slog.Logger) Option {
	return storeOption(func(o storeOptions) storeOptions { o.logger = l; return o })
}

// Intercept runs f around every operation. Of several the first is outermost.
func Intercept(f Interceptor) Option {
	return storeOption(func(o storeOptions) storeOptions {
		outer := o.intercept
		switch {
		case f == nil:
		case outer == nil:
			o.intercept = f
		default:
			o.intercept = func(ctx context.Context, c Call, next func(context.Context) error) error {
				return outer(ctx, c, func(ctx context.Context) error { return f(ctx, c, next) })
			}
		}
		return o
	})
}

// Portable holds the store to the smallest limits of all stores, whichever it
// is, for programs that want to move: see PortableMaxKeyBytes and the like. The
// limits are those of locks and registrations too, whose leases are raised to
// PortableMinLease.
func Portable() Option {
	return storeOption(func(o storeOptions) storeOptions { o.portable = true; return o })
}

// WatchBuffer bounds the bytes of events that each watch holds for a reader
// that does not come; beyond, it falls back to its resume point or merges
// events of a key where the store is not Lossless. The default is
// DefaultWatchBuffer.
func WatchBuffer(bytes int) Option {
	return storeOption(func(o storeOptions) storeOptions { o.watchBuffer = bytes; return o })
}

type stale struct{}

func (stale) get(o backend.GetOptions) backend.GetOptions    { o.Stale = true; return o }
func (stale) list(o backend.ListOptions) backend.ListOptions { o.Stale = true; return o }

// Stale permits the store's cheapest read, which may miss the latest writes.
// Every store accepts it.
func Stale() ReadOption { return stale{} }

type atLeast Revision

func (r atLeast) get(o backend.GetOptions) backend.GetOptions    { o.AtLeast = Revision(r); return o }
func (r atLeast) list(o backend.ListOptions) backend.ListOptions { o.AtLeast = Revision(r); return o }

// AtLeast makes the read wait until it reflects revision rev of the same
// store: a stale read that is not older than something seen before.
func AtLeast(rev Revision) ReadOption { return atLeast(rev) }

type ttl time.Duration

func (d ttl) write(o writeOptions) writeOptions {
	o.ttl, o.ttlSet = time.Duration(d), true
	return o
}
func (d ttl) modify(o writeOptions) writeOptions { return d.write(o) }

// TTL makes the entry expire: it is never gone before d, and invisible
// Capabilities.TTLSlack after. A d under Capabilities.MinTTL, one second on
// every store, or over a hundred years is ErrInvalid. Stores that count in
// coarser units round up; Entry.Expires is the effective time. A write without
// TTL clears an older one, save Modify, which keeps it (a registered key has
// none to keep).
func TTL(d time.Duration) PutOption { return ttl(d) }

type upsert struct{}

func (upsert) modify(o writeOptions) writeOptions { o.upsert = true; return o }

// Upsert lets Modify start from an absent key: its function is then given an
// entry of Revision 0.
func Upsert() ModifyOption { return upsert{} }

type ifChecks []Check

func (c ifChecks) write(o writeOptions) writeOptions {
	o.checks = append(o.checks[:len(o.checks):len(o.checks)], c...)
	return o
}
func (c ifChecks) modify(o writeOptions) writeOptions { return c.write(o) }
func (c ifChecks) delete(o deleteOptions) deleteOptions {
	o.checks = append(o.checks[:len(o.checks):len(o.checks)], c...)
	return o
}

// If lets a write happen only if all checks hold, in one step with it:
// kv.If(held.Check()) is a write that the store refuses once the lock is lost,
// kv.If(s.Present("leader")) one that needs another key to be there. The checks
// are of the store that is written to, at most one of each key; Create, Update,
// Modify and Delete have one of the key that they write. A check that fails is
// a *CheckError, and a lost lock comes before any other reason to fail: a
// Create of a key that is there is ErrLockLost then, and not ErrExists.
func If(checks ...Check) CheckOption { return ifChecks(checks) }

type ifRevision Revision

func (r ifRevision) delete(o deleteOptions) deleteOptions {
	o.revision, o.cond = Revision(r), backend.AtRevision
	return o
}

// IfRevision lets Delete remove the key only at this revision, else
// ErrConflict, also when the key is gone. Revision 0 is ErrInvalid.
func IfRevision(rev Revision) DeleteOption { return ifRevision(rev) }

type ifAbsent struct{}

func (ifAbsent) register(o registerOptions) registerOptions { o.absent = true; return o }

// IfAbsent lets Register take a key only if there is none, else ErrExists.
func IfAbsent() RegisterOption { return ifAbsent{} }

type keysOnly struct{}

func (keysOnly) list(o backend.ListOptions) backend.ListOptions { o.KeysOnly = true; return o }
func (keysOnly) watch(o watchOptions) watchOptions              { o.keysOnly = true; return o }

// KeysOnly leaves values out: Entry.Value is the zero value. Key, Revision and
// Kind are set all the same, and nothing is decoded.
func KeysOnly() StreamOption { return keysOnly{} }

type limit int

func (n limit) list(o backend.ListOptions) backend.ListOptions { o.Limit = int(n); return o }

// Limit ends a List after n entries. n under 1 is ErrInvalid.
func Limit(n int) ListOption { return limit(n) }

type after string

func (k after) list(o backend.ListOptions) backend.ListOptions { o.After = string(k); return o }

// After starts a List after key, which need not exist: the last key of the page
// before. With Children it may be a directory, its slash included.
func After(key string) ListOption { return after(key) }

type children struct{}

func (children) list(o backend.ListOptions) backend.ListOptions { o.Children = true; return o }

// Children restricts a List to what lies directly below the prefix: the keys,
// and a name ending in a slash for each directory, that is for each name with
// keys below it. A name that is both is yielded as both: see Entry.IsDir.
func Children() ListOption { return children{} }

type fromSnapshot struct{}

func (fromSnapshot) watch(o watchOptions) watchOptions { o.Snapshot = true; return o }

// FromSnapshot begins a watch with what is there: an Existing event for each
// entry, then Synced, then the changes, with no gap and no repeat between.
// Such a watch also repairs itself when the store has lost the history that it
// missed: it delivers Resynced, the differences, and Synced.
func FromSnapshot() WatchOption { return fromSnapshot{} }

type withPrev struct{}

func (withPrev) watch(o watchOptions) watchOptions { o.Prev = true; return o }

// WithPrev fills Event.Prev, where the store still has the previous value.
func WithPrev() WatchOption { return withPrev{} }

type withProgress struct{}

func (withProgress) watch(o watchOptions) watchOptions { o.progress = true; return o }

// WithProgress delivers Progress events: everything up to Event.Revision was
// delivered, and Event.Token is a newer place to resume from. They come when
// the store sends them and when Watch.Sync asks.
func WithProgress() WatchOption { return withProgress{} }

type resume Token

func (t resume) watch(o watchOptions) watchOptions { o.Resume, o.resume = Token(t), true; return o }

// Resume continues after the event whose token t is, of a watch of the same
// store and prefix, in this or an earlier process. Where the store does not
// keep history it is errors.ErrUnsupported (Capabilities.Resumable); where the
// history no longer reaches back, ErrHistoryLost; a token of another store or
// prefix, one beside FromSnapshot, and the empty one, is ErrInvalid: a program
// that has no token yet leaves the option out, and one that keeps its place
// passes over events without a token.
func Resume(t Token) WatchOption { return resume(t) }
