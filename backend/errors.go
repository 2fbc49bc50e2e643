package backend

import (
	"context"
	"errors"
	"fmt"
)

// The sentinels. Every error of a driver matches, with errors.Is, one of
// these or errors.ErrUnsupported or the error of a context, and also its
// cause. Package kv exports them under the same names.
var (
	ErrNotFound    = errors.New("key not found")
	ErrExists      = errors.New("key exists")
	ErrConflict    = errors.New("revision conflict")
	ErrInvalid     = errors.New("invalid argument")  // options that contradict, a TTL under MinTTL, a malformed token or URL
	ErrInvalidKey  = errors.New("invalid key")       // empty, not UTF-8, NUL, too long
	ErrTooLarge    = errors.New("too large")         // a value or transaction over the store's limit; nothing was sent
	ErrHistoryLost = errors.New("history lost")      // the store no longer has what a watch missed
	ErrLocked      = errors.New("locked")            // somebody else holds the lock
	ErrLockLost    = errors.New("lock lost")         // the place in the lock's queue is gone
	ErrLeaseLost   = errors.New("lease lost")        // a registered key is no longer the lease's
	ErrUnavailable = errors.New("store unavailable") // no answer; nothing was applied by this call
	ErrUncertain   = errors.New("outcome unknown")   // a write was sent and its reply lost: it may have been applied
	ErrClosed      = errors.New("store closed")      // the store or the watch was closed
	ErrPermission  = errors.New("permission denied") // the store refused the credentials or the operation
	ErrCorrupt     = errors.New("damaged data")      // bookkeeping or a file that this library cannot read
	ErrNewerSchema = errors.New("newer bookkeeping") // written by a later version of this library (R6)
)

// ContextError returns an error that matches both ctx.Err() and
// context.Cause(ctx), or nil while ctx has not ended.
func ContextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	return Because(err, context.Cause(ctx))
}

// Because returns an error that matches both sentinel and cause, and reads as
// "sentinel: cause". It returns sentinel alone for a nil cause, and cause
// alone if that matches sentinel already.
func Because(sentinel, cause error) error {
	switch {
	case cause == nil:
		return sentinel
	case errors.Is(cause, sentinel):
		return cause
	}
	return fmt.Errorf("%w: %w", sentinel, cause)
}
