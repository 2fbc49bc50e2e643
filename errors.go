package kv

import (
	"context"
	"errors"
	"strings"

	"github.com/polykv/kv/backend"
)

// The sentinels that errors of this package match with errors.Is, whatever
// the store. An error matches its cause too, and errors.ErrUnsupported where a
// store cannot do what was asked: see [Capabilities].
var (
	ErrNotFound    = backend.ErrNotFound    // there is no such key
	ErrExists      = backend.ErrExists      // Create, IfAbsent: there is such a key
	ErrConflict    = backend.ErrConflict    // the key is not at the revision given, or gone
	ErrInvalid     = backend.ErrInvalid     // options that contradict, a TTL under MinTTL, a malformed URL or token
	ErrInvalidKey  = backend.ErrInvalidKey  // empty, not UTF-8, NUL, or longer than MaxKeyBytes
	ErrTooLarge    = backend.ErrTooLarge    // a value or transaction over the store's limit; nothing was sent
	ErrHistoryLost = backend.ErrHistoryLost // a watch cannot continue without a gap
	ErrLocked      = backend.ErrLocked      // TryLock: somebody else holds the lock
	ErrLockLost    = backend.ErrLockLost    // the lock is no longer held
	ErrLeaseLost   = backend.ErrLeaseLost   // the registered key is no longer ours
	ErrUnavailable = backend.ErrUnavailable // the store did not answer; nothing was applied
	ErrUncertain   = backend.ErrUncertain   // a write was sent and its reply lost: it may have been applied
	ErrClosed      = backend.ErrClosed      // the store, watch or registration was closed
	ErrPermission  = backend.ErrPermission  // the store refused the credentials or the operation
	ErrCorrupt     = backend.ErrCorrupt     // bookkeeping or a file that this library cannot read
	ErrNewerSchema = backend.ErrNewerSchema // bookkeeping of a later version of this library
)

// Op names an operation, in errors and for interceptors.
type Op string

// The operations. Those of locks go through the interceptor like all others,
// renewals included.
const (
	OpOpen         Op = "open"
	OpGet          Op = "get"
	OpGetMany      Op = "get many"
	OpPut          Op = "put"
	OpCreate       Op = "create"
	OpUpdate       Op = "update"
	OpModify       Op = "modify"
	OpDelete       Op = "delete"
	OpDeletePrefix Op = "delete prefix"
	OpList         Op = "list"
	OpWatch        Op = "watch"
	OpCommit       Op = "commit"
	OpRegister     Op = "register"
	OpRenew        Op = "renew"
	OpRelease      Op = "release"
	OpLock         Op = "lock"
	OpUnlock       Op = "unlock"
	OpObserve      Op = "observe"
	OpAdopt        Op = "adopt"
	OpPing         Op = "ping"
	OpClose        Op = "close"
	OpKey          Op = "key" // Store.Key, which no interceptor sees
)

// Error is the error of every operation. It never holds a value or a password.
type Error struct {
	Op    Op
	Store string // Capabilities.Name
	Key   string // the key or prefix as the store's driver sees it, the store's prefix included; in a failed Commit the failed check's
	Err   error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("kv: ")
	if e.Store != "" {
		b.WriteString(e.Store)
		b.WriteByte(' ')
	}
	b.WriteString(string(e.Op))
	if e.Key != "" {
		b.WriteByte(' ')
		b.WriteString(quoteKey(e.Key))
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the error that Op met.
func (e *Error) Unwrap() error { return e.Err }

// CheckError tells which check of a transaction did not hold; errors.As finds
// it in the error of Commit and of writes with If. Of several that fail it
// tells of any one, but of a lost lock before all others.
type CheckError = backend.CheckError

// fail wraps err, unless it is nil or wrapped already.
func (c *core) fail(op Op, key string, err error) error {
	if err == nil {
		return nil
	}
	var wrapped *Error
	if errors.As(err, &wrapped) {
		return err
	}
	var check *backend.CheckError
	if errors.As(err, &check) {
		key = check.Key
	}
	return &Error{Op: op, Store: c.name, Key: key, Err: err}
}

// contextError is what a call that waits returns when its context ends.
func contextError(ctx context.Context) error { return backend.ContextError(ctx) }
